// Package cache keeps the bodies that providers sent: the ones this worker met
// last at hand, all of them for a while in a bucket that the fleet shares. It
// also says who is making a call, so that under a scarce quota no two workers
// make the same one. A cache may forget, and fails no request.
package cache

import (
	"container/list"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// cachedLimit is the largest body, compressed, that the bucket keeps.
	cachedLimit = 512 << 10
	// worthZipping is the least body that is compressed, in bytes: of a smaller
	// one it saves a few hundred, at a tenth of the call's CPU.
	worthZipping = 4 << 10
	// decodedLimit bounds what a cached value may grow to.
	decodedLimit = 64 << 20
	// localLimit is how many bytes of bodies a worker keeps at hand.
	localLimit = 64 << 20
	// queuedLimit bounds their bytes.
	queuedLimit = 64 << 20
	// writesWaiting bounds the cache writes that nobody waits for; more are
	// dropped, for a cache may forget.
	writesWaiting = 1024
)

// Cache keeps bodies for the fleet in a bucket, and the ones this worker met
// last at hand. It is safe for concurrent use.
type Cache struct {
	bucket  *bucket
	logger  *zap.Logger
	dropped func() // counts a write that could not be kept up with
	zip     *zstd.Encoder
	unzip   *zstd.Decoder
	writes  chan write
	queued  atomic.Int64 // bytes in writes

	mu    sync.Mutex
	local map[string]*list.Element // of *kept
	order *list.List               // the most recently used first
	bytes int
}

type kept struct {
	key string
	*Entry
}

// write is an entry on its way to the bucket, or with none the word that the
// call for the key is over.
type write struct {
	key string
	*Entry
}

// New opens the fleet's cache; Close ends it. dropped counts a write that
// could not be kept up with.
func New(js jetstream.JetStream, logger *zap.Logger, dropped func()) (*Cache, error) {
	shared, err := newBucket(js)
	if err != nil {
		return nil, err
	}
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(decodedLimit))
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return &Cache{
		bucket: shared, logger: logger, dropped: dropped, zip: zip, unzip: unzip,
		writes: make(chan write, writesWaiting), local: map[string]*list.Element{}, order: list.New(),
	}, nil
}

// AtHand is the entry this worker met last, if it still has it: no round trip.
func (c *Cache) AtHand(key string) *Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.local[key]
	if !ok {
		return nil
	}
	c.order.MoveToFront(element)
	k, _ := element.Value.(*kept)
	return k.Entry
}

// Get reads the fleet's entry, nil if there is none. What cannot be read is
// as good as absent: a cache must not fail a request.
func (c *Cache) Get(ctx context.Context, key string) *Entry {
	value, err := c.bucket.read(ctx, key)
	if err != nil {
		c.logger.Debug("cache read", zap.String("key", key), zap.Error(err))
	}
	if value == nil {
		return c.AtHand(key)
	}
	e, err := c.decode(value)
	if err != nil {
		c.logger.Debug("cache value", zap.String("key", key), zap.Error(err))
		return c.AtHand(key)
	}
	if mine := c.AtHand(key); mine != nil {
		e.refused = e.inherits(mine.Lasting())
		switch {
		case !mine.came().After(e.came()):
		case mine.passing:
			passing := *mine
			passing.under = e
			c.keep(key, &passing)
			return &passing
		default:
			return mine // its write is still under way
		}
	}
	c.keep(key, e)
	return e
}

// Put keeps an entry at hand at once, and in the bucket soon: nobody waits.
func (c *Cache) Put(key string, e *Entry) {
	before := c.AtHand(key).Lasting()
	if e.passing {
		e.under = before
		c.keep(key, e)
		return
	}
	e.refused = e.inherits(before)
	c.keep(key, e)
	size := int64(e.size(key))
	if c.queued.Add(size) > queuedLimit {
		c.queued.Add(-size)
		c.dropped() // the bucket is slower than the providers: forget this one
		return
	}
	select {
	case c.writes <- write{key, e}:
	default:
		c.queued.Add(-size)
		c.dropped()
	}
}

// Over says in the bucket, after what was put before it, that the call for a
// key is over.
func (c *Cache) Over(key string) {
	select {
	case c.writes <- write{key, nil}:
	default:
		c.dropped() // its time runs out
	}
}

// Refuse remembers that a call with the validators of a body has failed.
func (c *Cache) Refuse(key string, e *Entry) {
	refused := *e
	refused.refused = true
	c.keep(key, &refused)
}

func (c *Cache) keep(key string, e *Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.local[key]; ok {
		c.drop(element)
	}
	c.local[key] = c.order.PushFront(&kept{key, e})
	c.bytes += e.size(key)
	for c.bytes > localLimit && c.order.Len() > 1 {
		c.drop(c.order.Back())
	}
}

func (c *Cache) drop(element *list.Element) {
	k, _ := c.order.Remove(element).(*kept)
	delete(c.local, k.key)
	c.bytes -= k.size(k.key)
}

// Run writes entries to the bucket until ctx ends and nothing is left.
func (c *Cache) Run(ctx context.Context) {
	for {
		select {
		case w := <-c.writes:
			c.store(ctx, w)
		case <-ctx.Done():
			for {
				select {
				case w := <-c.writes:
					c.store(ctx, w)
				default:
					return
				}
			}
		}
	}
}

func (c *Cache) store(ctx context.Context, w write) {
	if w.Entry == nil {
		if err := c.bucket.unclaim(w.key); err != nil {
			c.logger.Debug("cache write", zap.String("key", w.key), zap.Error(err))
		}
		return
	}
	defer c.queued.Add(-int64(w.size(w.key)))
	value := c.encode(w.Entry)
	if len(value) > cachedLimit {
		return
	}
	// A stop does not lose what was queued.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := c.bucket.write(ctx, w.key, value); err != nil {
		c.logger.Debug("cache write", zap.String("key", w.key), zap.Error(err))
	}
}

// encode writes an entry as the length of its head, the head as JSON, and the
// body, compressed if that is worth it.
func (c *Cache) encode(e *Entry) []byte {
	stored := *e
	stored.Plain = len(e.Body) < worthZipping
	head, _ := json.Marshal(&stored) // plain fields: cannot fail
	value := binary.AppendUvarint(nil, uint64(len(head)))
	value = append(value, head...)
	if stored.Plain {
		return append(value, e.Body...)
	}
	return c.zip.EncodeAll(e.Body, value)
}

var errCacheValue = errors.New("the cached value cannot be read")

func (c *Cache) decode(value []byte) (*Entry, error) {
	size, n := binary.Uvarint(value)
	if n <= 0 || size > uint64(len(value)-n) { //nolint:gosec // n is at most the length
		return nil, errCacheValue
	}
	e := new(Entry)
	if err := json.Unmarshal(value[n:n+int(size)], e); err != nil { //nolint:gosec // bounded by the check above
		return nil, fmt.Errorf("%w: %w", errCacheValue, err)
	}
	if e.Plain {
		e.Body = value[n+int(size):] //nolint:gosec // checked above
		return e, nil
	}
	body, err := c.unzip.DecodeAll(value[n+int(size):], nil) //nolint:gosec // checked above
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCacheValue, err)
	}
	e.Body = body
	return e, nil
}

// Close releases what the compressors hold.
func (c *Cache) Close() {
	c.bucket.close()
	_ = c.zip.Close()
	c.unzip.Close()
}
