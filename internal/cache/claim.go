package cache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// claimLasts is how long the answer to a claim is waited for: a cache must hold
// nobody up.
const claimLasts = 2 * time.Second

func claimSubject(key string) string { return cacheSubject("flying." + key) }

// Claim is what a worker has by saying that it is about to make a call.
type Claim struct {
	Mine bool // it is the only one of the fleet; not: another is at it
	// After says that another's call of the key ended a while ago, up to a
	// minute: its body may have come after one looked for it.
	After bool

	sequence uint64
}

// claim says that this worker is about to make a call. The word of a worker that
// died is forgotten after lasts.
func (b *bucket) claim(ctx context.Context, key string, lasts time.Duration) (Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, claimLasts)
	defer cancel()
	seconds := strconv.Itoa(int(lasts/time.Second) + 1)
	stands := uint64(0) // sequence of what stands under the key
	for range 3 {
		m := nats.NewMsg(claimSubject(key))
		m.Header.Set(jetstream.MsgTTLHeader, seconds)
		ack, err := b.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(stands))
		if err == nil {
			return Claim{Mine: true, After: stands > 0, sequence: ack.Sequence}, nil
		}
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
			return Claim{}, fmt.Errorf("claim %s: %w", key, err)
		}
		sequence, held, err := b.claimed(ctx, key)
		if err != nil || held {
			return Claim{}, err
		}
		stands = sequence
	}
	return Claim{}, nil
}

// claimed reports whether a worker says that it is making a call, and the
// sequence of what stands there.
func (b *bucket) claimed(ctx context.Context, key string) (sequence uint64, held bool, err error) {
	m, err := b.js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+claimSubject(key), nil)
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

// unclaim says that the call of a claim is over. It is sent after its body on
// the same connection, so whoever reads it finds the body. A claim that has run
// out meanwhile is another's by now, and stays.
func (b *bucket) unclaim(key string, claim uint64) error {
	m := nats.NewMsg(claimSubject(key))
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(claim, 10))
	m.Header.Set(claimOver, "DEL")
	m.Header.Set(jetstream.MsgTTLHeader, "60")
	return b.out.Conn().PublishMsg(m)
}

// Claim says that this worker is about to make the call of a key. The word of a
// worker that died is forgotten after lasts; Over takes it back.
func (c *Cache) Claim(ctx context.Context, key string, lasts time.Duration) (Claim, error) {
	return c.bucket.claim(ctx, key, lasts)
}

// Claimed reports whether a worker says that it is making the call of a key.
func (c *Cache) Claimed(ctx context.Context, key string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, claimLasts)
	defer cancel()
	_, held, err := c.bucket.claimed(ctx, key)
	return held, err
}
