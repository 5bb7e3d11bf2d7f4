package fetch

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"fetchworker/internal/record"
	"fetchworker/internal/wait"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Under a scarce quota no two workers make the same call at once: whoever is
// about to make one says so under the call's key in the fleet's cache, and who
// finds that another is at it gives its permit back and waits for the body.
// Where permits are plenty that would cost a round trip more than it saves.
const (
	// scarceBelow this many calls a second a permit is worth more than a round
	// trip.
	scarceBelow = 50
	// claimLooks is how often one who waits looks whether the body has come.
	claimLooks = 100 * time.Millisecond
)

func claimSubject(key string) string { return cacheSubject("flying." + key) }

// claim says that this worker is about to make a call. It is false if another
// says so already. The word of a worker that died is forgotten after lasts.
func (b *bucket) claim(ctx context.Context, key string, lasts time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLasts)
	defer cancel()
	seconds := strconv.Itoa(int(lasts/time.Second) + 1)
	stands := uint64(0) // sequence of what stands under the key
	for range 3 {
		m := nats.NewMsg(claimSubject(key))
		m.Header.Set(jetstream.MsgTTLHeader, seconds)
		_, err := b.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(stands))
		if err == nil {
			return true, nil
		}
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
			return false, fmt.Errorf("claim %s: %w", key, err)
		}
		sequence, held, err := b.claimed(ctx, key)
		if err != nil || held {
			return false, err
		}
		stands = sequence
	}
	return false, nil
}

// claimed reports whether a worker says that it is making a call, and the
// sequence of what stands there.
func (b *bucket) claimed(ctx context.Context, key string) (sequence uint64, held bool, err error) {
	m, err := b.js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+b.looks.stream+"."+claimSubject(key), nil)
	switch {
	case err != nil:
		return 0, false, fmt.Errorf("claim of %s: %w", key, err)
	case !record.IsStored(m.Header):
		return 0, false, nil
	}
	raw, err := record.Direct(m)
	if err != nil {
		return 0, false, err
	}
	// What is over leaves a mark: of ours, or of the server's where it timed out.
	over := m.Header.Get(claimOver) != "" || m.Header.Get(jetstream.MarkerReasonHeader) != ""
	return raw.Sequence, !over, nil
}

const claimOver = "KV-Operation" // as the bucket's clients mark what is deleted

// unclaim says that the call is over. It is sent after its body on the same
// connection, so whoever reads it finds the body.
func (b *bucket) unclaim(key string) error {
	m := nats.NewMsg(claimSubject(key))
	m.Header.Set(claimOver, "DEL")
	m.Header.Set(jetstream.MsgTTLHeader, "60")
	return b.js.Conn().PublishMsg(m)
}

// alone reports whether this worker may make a request's call, as the only one
// of the fleet. over ends the claim; where there is none it does nothing.
func (w *Worker) alone(ctx context.Context, r *request) (alone bool, over func()) {
	if r.served.Gate.Pace() >= scarceBelow {
		return true, func() {}
	}
	key := r.call.Key
	mine, err := w.cache.bucket.claim(ctx, key, r.served.Provider.Timeout)
	if err != nil {
		return true, func() {} // a cache holds nobody up
	}
	if !mine {
		return false, func() {}
	}
	return true, func() { w.cache.over(key) }
}

// awaitOther waits while another worker makes a request's call, and answers
// the request if its body has come.
func (w *Worker) awaitOther(ctx context.Context, r *request) (done bool, err error) {
	waiting, cancel := w.untilOver(ctx, r)
	defer cancel()
	for {
		if err := wait.For(waiting, claimLooks); err != nil {
			return true, w.without(ctx, r, err)
		}
		_, held, err := w.cache.bucket.claimed(waiting, r.call.Key)
		if err == nil && held {
			continue
		}
		// Looked for after the claim was over, the body is there if it came.
		return w.lateLook(ctx, r)
	}
}
