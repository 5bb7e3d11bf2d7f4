// Package cache keeps the bodies that providers sent: the ones this worker met
// last at hand, all of them for a while in a bucket that the fleet shares. It
// also says who is making a call, so that under a scarce quota no two workers
// make the same one. A cache may forget, and fails no request.
package cache

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fetchworker/internal/memory"

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
	// valueKept is the most room that is kept for the next value, in bytes.
	valueKept = 64 << 10
	// writesWaiting bounds the cache writes that nobody waits for; more are
	// dropped, for a cache may forget.
	writesWaiting = 1024
)

// Cache keeps bodies for the fleet in a bucket, and the ones this worker met
// last at hand. It is safe for concurrent use.
type Cache struct {
	bucket  *bucket
	memory  *memory.Budget
	logger  *zap.Logger
	dropped func() // counts a write that could not be kept up with
	zip     *zstd.Encoder
	unzip   *zstd.Decoder
	writes  chan write
	queued  atomic.Int64 // bytes in writes

	head, value []byte // room for what is written, of the one who writes

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
	key    string
	*Entry        // nil: the claim is over
	claim  uint64 // its sequence
}

// New opens the fleet's cache, which is written to over another connection than
// it is read, or over the same; Close ends it. Large bodies are within the
// budget, and given up when somebody waits for their room. dropped counts a
// write that could not be kept up with.
func New(js, writes jetstream.JetStream, budget *memory.Budget, logger *zap.Logger, dropped func()) (*Cache, error) {
	shared, err := newBucket(js, writes)
	if err != nil {
		return nil, err
	}
	zip, err := newZip()
	if err != nil {
		return nil, err
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(decodedLimit))
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Cache{
		bucket: shared, memory: budget, logger: logger, dropped: dropped, zip: zip, unzip: unzip,
		writes: make(chan write, writesWaiting), local: map[string]*list.Element{}, order: list.New(),
	}
	budget.Spare(c.forgetLarge)
	return c, nil
}

// newZip is quick rather than thorough: of a table of numbers, which is what
// most large bodies are, the usual level saves no more and takes twice as long.
func newZip() (*zstd.Encoder, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return zip, nil
}

// forgetLarge drops the large bodies at hand.
func (c *Cache) forgetLarge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for element := c.order.Front(); element != nil; {
		next := element.Next()
		if k, _ := element.Value.(*kept); k.large() {
			c.drop(element)
		}
		element = next
	}
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

// Aside is called around each wait for the memory or the turn that a large body
// needs: who holds what others wait for lets go of it meanwhile.
type Aside = func(wait func() error) error

// Wanted is which bodies are of use: those that answer a request stored then.
// The zero value wants any.
type Wanted struct {
	Stored, Now time.Time
	MaxAge      time.Duration
}

func (w Wanted) includes(e *Entry) bool { return w == Wanted{} || e.Fresh(w.Stored, w.Now, w.MaxAge) }

// Get reads the fleet's entry, nil if there is none. A large one that is not
// wanted comes light: its body is not worth the memory. What cannot be read is
// as good as absent: a cache must not fail a request.
func (c *Cache) Get(ctx context.Context, key string, wanted Wanted, aside Aside) *Entry {
	value, err := c.bucket.read(ctx, key)
	if err != nil {
		c.logger.Debug("cache read", zap.String("key", key), zap.Error(err))
	}
	if value == nil {
		return c.AtHand(key)
	}
	e, err := c.decode(ctx, value, wanted, aside)
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
			if !e.light {
				c.keep(key, &passing)
			}
			return &passing
		default:
			return mine // its write is still under way
		}
	}
	if !e.light {
		c.keep(key, e)
	}
	return e
}

// Whole is a light entry with its body, or what is kept in its place by now;
// nil if nothing is. One that is not light comes back as it is.
func (c *Cache) Whole(ctx context.Context, key string, e *Entry, aside Aside) *Entry {
	if e == nil || !e.light {
		return e
	}
	if mine := c.AtHand(key).Lasting(); mine != nil && mine.same(e) {
		return mine
	}
	return c.Get(ctx, key, Wanted{}, aside).Lasting()
}

// Unchanged is the body of an entry whose provider says that it is still right;
// nil if it is not kept any more.
func (c *Cache) Unchanged(ctx context.Context, key string, e *Entry, aside Aside) *Entry {
	if whole := c.Whole(ctx, key, e, aside); whole != nil && whole.same(e) {
		return whole
	}
	return nil
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
	case c.writes <- write{key: key, Entry: e}:
	default:
		c.queued.Add(-size)
		c.dropped()
	}
}

// Over says in the bucket, after what was put before it, that the call of a
// claim is over.
func (c *Cache) Over(key string, claim Claim) {
	select {
	case c.writes <- write{key: key, claim: claim.sequence}:
	default:
		c.dropped() // its time runs out
	}
}

// Refuse remembers that a call with the validators of a body has failed.
func (c *Cache) Refuse(key string, e *Entry) {
	if e.light {
		mine := c.AtHand(key).Lasting()
		if mine == nil || !mine.same(e) {
			return // it is gone, and its validators with it
		}
		e = mine
	}
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
		if err := c.bucket.unclaim(w.key, w.claim); err != nil {
			c.logger.Debug("cache write", zap.String("key", w.key), zap.Error(err))
		}
		return
	}
	defer func() {
		c.queued.Add(-int64(w.size(w.key)))
		c.memory.Ended()
	}()
	value := c.encode(c.value[:0], w.Entry)
	if value == nil || len(value) > cachedLimit {
		return
	}
	if len(value) <= valueKept {
		c.value = value
	}
	if err := c.bucket.write(ctx, w.key, value); err != nil {
		c.logger.Debug("cache write", zap.String("key", w.key), zap.Error(err))
	}
}

// Close releases what the compressors hold.
func (c *Cache) Close() {
	c.bucket.close()
	_ = c.zip.Close()
	c.unzip.Close()
}
