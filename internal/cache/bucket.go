package cache

import (
	"context"
	"fmt"
	"time"

	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bucket reads and writes the fleet's cache with few messages for many
// requests: writes wait for an acknowledgement only now and then.
type bucket struct {
	js    jetstream.JetStream
	out   jetstream.JetStream // what is written by Cache.Run, in its order
	looks *record.Looks

	// Of the one writer:
	message               nats.Msg // on its way, whose place is used again
	unacked, unackedBytes int      // writes since the last acknowledgement
}

const (
	// writesUnacked and bytesUnacked may be on their way to the server.
	writesUnacked = 64
	bytesUnacked  = 1 << 20
	// writeLasts is how long an acknowledgement is waited for.
	writeLasts = 5 * time.Second
)

const stream = "KV_" + wire.BucketCache

func newBucket(js, out jetstream.JetStream) (*bucket, error) {
	l, err := record.NewLooks(js, stream)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return &bucket{js: js, out: out, looks: l}, nil
}

func cacheSubject(key string) string { return "$KV." + wire.BucketCache + "." + key }

// read is what stands under a key, nil if nothing does.
func (b *bucket) read(ctx context.Context, key string) ([]byte, error) {
	m, err := b.looks.Read(ctx, cacheSubject(key))
	if m == nil || err != nil {
		return nil, err
	}
	return m.Data, nil
}

// write stores a value. Only every so many writes wait for their
// acknowledgement, which says that all before them have been worked off, so
// that the server is never sent more than it takes.
func (b *bucket) write(ctx context.Context, key string, value []byte) error {
	m := &b.message
	m.Subject, m.Data = cacheSubject(key), value
	defer func() { m.Data = nil }() // memory counts it for no longer than the write
	b.unacked++
	b.unackedBytes += len(value)
	if b.unacked < writesUnacked && b.unackedBytes < bytesUnacked {
		return b.out.Conn().PublishMsg(m)
	}
	b.unacked, b.unackedBytes = 0, 0
	// A stop does not lose what was queued.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLasts)
	defer cancel()
	_, err := b.out.PublishMsg(ctx, m)
	return err
}

func (b *bucket) close() { b.looks.Close() }
