package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/wait"
)

// acks publishes and waits for the stream's word, on one subscription for all
// writes of a log. (The client library's own way makes a context, a timer, a
// channel, a random word and a decoded document for each write: a tenth of the
// allocations and of the CPU of a request.) It is safe for concurrent use.
type acks struct {
	nc *nats.Conn

	mu      sync.Mutex
	sub     *nats.Subscription // made by the first write
	inbox   string             // of the sub, with its last dot
	made    uint64
	waiting map[string]*write // by the end of their inbox
	free    []*write

	known         bool
	usual, spread time.Duration // that a word takes
}

func newAcks(nc *nats.Conn) *acks { return &acks{nc: nc, waiting: map[string]*write{}} }

// write is one that waits for its word. It is used again.
type write struct {
	message nats.Msg // as it is sent
	said    chan *nats.Msg
	late    *time.Timer
}

const (
	// writeLasts is how long the word is waited for. An election takes with it
	// what came just before it: a small write that may be repeated is sent again
	// when the word takes much longer than words do, but not before writeSoonest,
	// and then after twice as long each time, up to writeAgain.
	writeLasts   = 5 * time.Second
	writeSoonest = 250 * time.Millisecond
	writeAgain   = time.Second
	// writesFree are kept for the next.
	writesFree = 256
	// Where no stream listens, one is perhaps about to: a leader moves.
	unheardTries = 2
	unheardWait  = 250 * time.Millisecond
)

// errClosed says that the connection was closed over a write: nobody will say
// what became of it.
var errClosed = fmt.Errorf("the server's word of a write can no longer come: %w", nats.ErrConnectionClosed)

// errLate says that the server has not said in time what became of a write.
var errLate = fmt.Errorf("the server said nothing of a write: %w", context.DeadlineExceeded)

// publish writes once, or, where that may be repeated, until there is a word.
// unsure: an earlier of several may have been stored, whatever the word is. The
// errors are those of jetstream's PublishMsg, errLate, and errClosed where the
// connection was closed meanwhile.
func (a *acks) publish(ctx context.Context, m *nats.Msg, repeat bool) (ack jetstream.PubAck, unsure bool, err error) {
	var said *nats.Msg
	for try := 0; ; try++ {
		var again bool
		said, again, err = a.ask(ctx, m, repeat)
		if unsure = unsure || again; err != nil {
			return jetstream.PubAck{}, unsure, err
		}
		if len(said.Data) > 0 || said.Header.Get("Status") != "503" {
			break
		}
		if try == unheardTries {
			return jetstream.PubAck{}, unsure, jetstream.ErrNoStreamResponse
		}
		if err := wait.For(ctx, unheardWait); err != nil {
			return jetstream.PubAck{}, unsure, err
		}
	}
	ack, err = ackOf(said.Data)
	return ack, unsure, err
}

// ask sends a message and waits for the word of it. again: it was sent more
// than once.
func (a *acks) ask(ctx context.Context, m *nats.Msg, repeat bool) (said *nats.Msg, again bool, err error) {
	wait := writeLasts
	if repeat = repeat && len(m.Data) < largeFrom; repeat {
		wait = a.patience()
	}
	began := time.Now()
	w, token, reply, err := a.begin(wait)
	if err != nil {
		return nil, false, err
	}
	defer a.end(token, w)
	if err := a.send(w, m, reply); err != nil {
		return nil, false, err
	}
	for waited := wait; ; waited += wait {
		select {
		case said := <-w.said:
			switch {
			case said == nil:
				return nil, again, errClosed
			case again && a.busy(said, token, w):
				waited -= wait // the time goes on
				continue
			}
			a.took(time.Since(began))
			return said, again, nil
		case <-ctx.Done():
			return nil, again, ctx.Err()
		case <-w.late.C:
		}
		if waited >= writeLasts {
			return nil, again, errLate
		}
		wait = min(2*wait, writeAgain, writeLasts-waited)
		w.late.Reset(wait)
		// Without a connection it would only be sent twice with the next.
		again = a.nc.IsConnected() && a.send(w, m, reply) == nil || again
	}
}

// took notes what a word has taken, and patience is how long the next is waited
// for before its write is sent again: what words usually take with room to spare,
// as TCP reckons it (RFC 6298), so that a server which is only slow does not hear
// of each write twice.
func (a *acks) took(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d = min(d, writeAgain); !a.known {
		a.known, a.usual, a.spread = true, d, d/2
		return
	}
	a.spread += ((d - a.usual).Abs() - a.spread) / 4
	a.usual += (d - a.usual) / 8
}

func (a *acks) patience() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return min(max(a.usual+4*a.spread, writeSoonest), writeAgain)
}

// busy reports whether a word only says that the message, which was sent before,
// is on its way through the copies; then the next word is waited for.
func (a *acks) busy(said *nats.Msg, token string, w *write) bool {
	if _, err := ackOf(said.Data); !isBusy(err) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[token] = w
	return true
}

func (a *acks) send(w *write, m *nats.Msg, reply string) error {
	sent := &w.message
	sent.Subject, sent.Reply, sent.Header, sent.Data = m.Subject, reply, m.Header, m.Data
	err := a.nc.PublishMsg(sent)
	sent.Header, sent.Data = nil, nil
	return err
}

// begin registers a write, whose timer fires after a while.
func (a *acks) begin(late time.Duration) (w *write, token, reply string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sub == nil || !a.sub.IsValid() {
		inbox := a.nc.NewInbox() + "."
		if a.sub, err = a.nc.Subscribe(inbox+"*", a.take); err != nil {
			return nil, "", "", err
		}
		a.sub.SetClosedHandler(func(string) { a.closed(inbox) })
		a.inbox = inbox
	}
	if last := len(a.free) - 1; last >= 0 {
		w, a.free = a.free[last], a.free[:last]
		w.late.Reset(late)
	} else {
		w = &write{said: make(chan *nats.Msg, 1), late: time.NewTimer(late)}
	}
	a.made++
	var room [128]byte
	reply = string(strconv.AppendUint(append(room[:0], a.inbox...), a.made, 36))
	token = reply[len(a.inbox):]
	a.waiting[token] = w
	return w, token, reply, nil
}

// end forgets a write; what is said of it from now on is heard by nobody.
func (a *acks) end(token string, w *write) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, token)
	w.late.Stop()
	select {
	case <-w.said: // while it was given up
	default:
	}
	if len(a.free) < writesFree {
		a.free = append(a.free, w)
	}
}

// take hands the server's word to whoever waits for it.
func (a *acks) take(m *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(m.Subject) < len(a.inbox) {
		return
	}
	token := m.Subject[len(a.inbox):]
	if w := a.waiting[token]; w != nil {
		delete(a.waiting, token) // a second word is of nobody's
		w.said <- m              // which has room for the one
	}
}

// closed ends the wait of all writes: their subscription has ended, with its
// connection.
func (a *acks) closed(inbox string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inbox != inbox {
		return
	}
	for token, w := range a.waiting {
		delete(a.waiting, token)
		w.said <- nil // which has room for the one
	}
}

// ackOf reads the stream's word. That all is well is said in the same letters
// each time, and is cut out of them.
func ackOf(said []byte) (jetstream.PubAck, error) {
	if rest, ok := bytes.CutPrefix(said, []byte(`{"stream":"`)); ok {
		if name, number, ok := bytes.Cut(rest, []byte(`","seq":`)); ok && len(number) > 1 && number[len(number)-1] == '}' {
			if seq, err := strconv.ParseUint(string(number[:len(number)-1]), 10, 64); err == nil && len(name) > 0 {
				return jetstream.PubAck{Sequence: seq}, nil
			}
		}
	}
	var word struct {
		jetstream.PubAck
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(said, &word); err != nil {
		return jetstream.PubAck{}, errors.Join(jetstream.ErrInvalidJSAck, err)
	}
	if word.Error != nil {
		return jetstream.PubAck{}, fmt.Errorf("the stream says: %w", word.Error)
	}
	if word.Stream == "" {
		return jetstream.PubAck{}, jetstream.ErrInvalidJSAck
	}
	return word.PubAck, nil
}
