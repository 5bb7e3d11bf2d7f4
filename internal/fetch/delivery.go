package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/intake"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// delivery is one message that this worker holds, from the moment it comes
// until it is acknowledged or handed back. While it is held the server is
// told so, or it would give it to another worker.
type delivery struct {
	msg      intake.Message
	address  wire.Address
	sequence uint64
	stored   time.Time // when the message was stored
	came     time.Time // into these hands
	count    uint64    // times it has been delivered, this one included
	behind   uint64    // messages of its shard that wait behind it
	replayed bool      // from the replay stream
	older    bool      // than its consumer, or the server's last start: it may have been delivered before

	again  bool  // it has been in our own hands before, since it came
	share  int64 // of the process that it has at the moment
	large  bool  // its answer's body has its memory out of the budget
	lesser bool  // its answer's body is between light and large: nobody makes way for it
	lone   bool  // a suspect on a run of its own, which has not come back

	shard   *intake.Shard // that it was taken from
	started sync.Once     // it no longer waits
	held    *wait.Heart[*delivery]
}

func newDelivery(msg intake.Message, meta *nats.MsgMetadata, from *intake.Shard, held *wait.Heart[*delivery]) (*delivery, error) {
	address, err := wire.ParseSubject(msg.Subject())
	if err != nil {
		return nil, fmt.Errorf("delivery: %w", err)
	}
	return &delivery{
		msg: msg, address: address, sequence: meta.Sequence.Stream, stored: meta.Timestamp, came: time.Now(),
		count: meta.NumDelivered, behind: meta.NumPending, replayed: meta.Stream == wire.StreamReplay,
		older: from.Older(meta.Timestamp), shard: from, held: held,
	}, nil
}

func (d *delivery) stream() string {
	if d.replayed {
		return wire.StreamReplay
	}
	return fetchworker.StreamRequests
}

// start says that the message waits no longer, so that its shard may look one
// further ahead. It may be called again.
func (d *delivery) start() { d.started.Do(d.shard.Start) }

// leave says that the message is out of this worker's hands.
func (d *delivery) leave() {
	d.start()
	d.shard.End()
	d.held.Remove(d)
}

// alone reports whether nothing else of the same agents is at hand: the
// request then counts as light, and goes before those of a heavy agent.
func (d *delivery) alone() bool { return d.behind == 0 && d.shard.Held() == 1 }

// redelivered reports whether somebody had the message before, be it this worker.
func (d *delivery) redelivered() bool { return d.count > 1 || d.again }

// ack tells the server that the request has its end. It is not waited for:
// should it be lost, the next holder finds the stored answer and acks.
func (d *delivery) ack() error { return d.msg.Ack() }

// ackSure waits for the server's word, for a letter: without it, the request
// would be called once more beside its letter. An ack that nobody has confirmed
// is sent again for as long as the message may still be ours; the server takes
// it twice. aside is called around that: nobody else has to wait for it.
func (d *delivery) ackSure(ctx context.Context, aside func(func() error) error) error {
	err := d.ackWithin(ctx)
	if !unheard(ctx, err) {
		return err
	}
	return aside(func() error {
		for tries := 1; tries < ackTries && unheard(ctx, err); tries++ {
			err = d.ackWithin(ctx)
		}
		return err
	})
}

// unheard reports whether a word did not come in time, and may still come.
func unheard(ctx context.Context, err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
}

const (
	ackLasts = 2 * time.Second
	ackTries = 5 // together as long as a consumer's AckWait
)

func (d *delivery) ackWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ackLasts)
	defer cancel()
	return d.msg.DoubleAck(ctx)
}

// handBack gives the message to another worker, after a while or at once.
func (d *delivery) handBack(after time.Duration) {
	// An error means that the connection is gone; AckWait does the same then.
	if after > 0 {
		_ = d.msg.NakWithDelay(after)
		return
	}
	_ = d.msg.Nak()
}

// InProgress tells the server that the message is still held.
func (d *delivery) InProgress() error { return d.msg.InProgress() }
