package fetch

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

	"fetchworker/internal/providers"

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

// entry is a body that a provider sent, and when.
type entry struct {
	FetchedAt    time.Time       `json:"fetched_at"`       // when the origin made it
	CameAt       time.Time       `json:"came_at,omitzero"` // when it came; zero in what older versions kept
	HTTPStatus   int             `json:"http_status"`
	ContentType  string          `json:"content_type,omitempty"`
	ETag         string          `json:"etag,omitempty"`
	LastModified string          `json:"last_modified,omitempty"`
	Next         json.RawMessage `json:"next,omitempty"`
	NextLoop     bool            `json:"next_loop,omitempty"`
	Redacted     bool            `json:"redacted,omitempty"`
	LatencyMS    int64           `json:"latency_ms,omitempty"`
	Plain        bool            `json:"plain,omitempty"` // as a value in the bucket: the body is not compressed

	body []byte
	// passing: the provider's answer may be another in a minute. It answers
	// those who had asked when it came, and nobody later.
	passing bool
	// under is the last body that could be kept, which one that passes by must
	// not hide.
	under *entry
	// refused: a call with its validators has failed, so the next go without.
	refused bool
}

// inherits reports whether the same validators have failed before.
func (e *entry) inherits(before *entry) bool {
	return before != nil && before.refused && before.ETag == e.ETag && before.LastModified == e.LastModified
}

// lasting is the body that may be shown later, nil if there is none.
func (e *entry) lasting() *entry {
	if e != nil && e.passing {
		return e.under
	}
	return e
}

func entryOf(result *providers.Result) *entry {
	return &entry{
		FetchedAt: result.FetchedAt, CameAt: result.FetchedAt.Add(result.Age), HTTPStatus: result.HTTPStatus, ContentType: result.ContentType,
		ETag: result.ETag, LastModified: result.LastModified, Next: result.Next, NextLoop: result.NextLoop, Redacted: result.Redacted,
		LatencyMS: result.Latency.Milliseconds(), body: result.Body, passing: !result.Cacheable,
	}
}

// size is about what an entry takes in memory, in bytes.
func (e *entry) size(key string) int {
	const overhead = 512
	if e.under != nil {
		return overhead + len(e.body) + e.under.size(key)
	}
	return overhead + 2*len(key) + len(e.body) + len(e.ContentType) + len(e.ETag) + len(e.LastModified) + len(e.Next)
}

// revive makes a whole answer of a 304: the body that was kept is still right.
func (e *entry) revive(result *providers.Result) {
	result.HTTPStatus, result.ContentType, result.Body = e.HTTPStatus, e.ContentType, e.body
	result.Next, result.NextLoop, result.Redacted, result.Cacheable = e.Next, e.NextLoop, e.Redacted, true
	if result.ETag == "" {
		result.ETag = e.ETag
	}
	if result.LastModified == "" {
		result.LastModified = e.LastModified
	}
}

// came is when the body came, however old it was by then.
func (e *entry) came() time.Time {
	if e.CameAt.IsZero() {
		return e.FetchedAt
	}
	return e.CameAt
}

// fresh reports whether the body answers a request stored then: it came after
// the request did, or it is young enough.
func (e *entry) fresh(stored, now time.Time, maxAge time.Duration) bool {
	if e == nil {
		return false
	}
	if !e.came().Before(stored) {
		return true
	}
	return !e.passing && now.Sub(e.FetchedAt) <= maxAge
}

// within reports whether the body is at most this old; a limit of 0 or less
// covers nothing.
func (e *entry) within(limit time.Duration, now time.Time) bool {
	return e != nil && !e.passing && limit > 0 && now.Sub(e.FetchedAt) <= limit
}

// cache keeps bodies for the fleet in a bucket, and the ones this worker met
// last at hand. It is safe for concurrent use.
type cache struct {
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
	*entry
}

// write is an entry on its way to the bucket, or with none the word that the
// call for the key is over.
type write struct {
	key string
	*entry
}

func newCache(js jetstream.JetStream, logger *zap.Logger, dropped func()) (*cache, error) {
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
	return &cache{
		bucket: shared, logger: logger, dropped: dropped, zip: zip, unzip: unzip,
		writes: make(chan write, writesWaiting), local: map[string]*list.Element{}, order: list.New(),
	}, nil
}

// atHand is the entry this worker met last, if it still has it: no round trip.
func (c *cache) atHand(key string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.local[key]
	if !ok {
		return nil
	}
	c.order.MoveToFront(element)
	k, _ := element.Value.(*kept)
	return k.entry
}

// get reads the fleet's entry, nil if there is none. What cannot be read is
// as good as absent: a cache must not fail a request.
func (c *cache) get(ctx context.Context, key string) *entry {
	value, err := c.bucket.read(ctx, key)
	if err != nil {
		c.logger.Debug("cache read", zap.String("key", key), zap.Error(err))
	}
	if value == nil {
		return c.atHand(key)
	}
	e, err := c.decode(value)
	if err != nil {
		c.logger.Debug("cache value", zap.String("key", key), zap.Error(err))
		return c.atHand(key)
	}
	if mine := c.atHand(key); mine != nil {
		e.refused = e.inherits(mine.lasting())
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

// put keeps an entry at hand at once, and in the bucket soon: nobody waits.
func (c *cache) put(key string, e *entry) {
	before := c.atHand(key).lasting()
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

// over says in the bucket, after what was put before it, that the call for a
// key is over.
func (c *cache) over(key string) {
	select {
	case c.writes <- write{key, nil}:
	default:
		c.dropped() // its time runs out
	}
}

// refuse remembers that a call with the validators of a body has failed.
func (c *cache) refuse(key string, e *entry) {
	refused := *e
	refused.refused = true
	c.keep(key, &refused)
}

func (c *cache) keep(key string, e *entry) {
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

func (c *cache) drop(element *list.Element) {
	k, _ := c.order.Remove(element).(*kept)
	delete(c.local, k.key)
	c.bytes -= k.size(k.key)
}

// run writes entries to the bucket until ctx ends and nothing is left.
func (c *cache) run(ctx context.Context) {
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

func (c *cache) store(ctx context.Context, w write) {
	if w.entry == nil {
		if err := c.bucket.unclaim(w.key); err != nil {
			c.logger.Debug("cache write", zap.String("key", w.key), zap.Error(err))
		}
		return
	}
	defer c.queued.Add(-int64(w.size(w.key)))
	value := c.encode(w.entry)
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
func (c *cache) encode(e *entry) []byte {
	stored := *e
	stored.Plain = len(e.body) < worthZipping
	head, _ := json.Marshal(&stored) // plain fields: cannot fail
	value := binary.AppendUvarint(nil, uint64(len(head)))
	value = append(value, head...)
	if stored.Plain {
		return append(value, e.body...)
	}
	return c.zip.EncodeAll(e.body, value)
}

var errCacheValue = errors.New("the cached value cannot be read")

func (c *cache) decode(value []byte) (*entry, error) {
	size, n := binary.Uvarint(value)
	if n <= 0 || size > uint64(len(value)-n) { //nolint:gosec // n is at most the length
		return nil, errCacheValue
	}
	e := new(entry)
	if err := json.Unmarshal(value[n:n+int(size)], e); err != nil { //nolint:gosec // bounded by the check above
		return nil, fmt.Errorf("%w: %w", errCacheValue, err)
	}
	if e.Plain {
		e.body = value[n+int(size):] //nolint:gosec // checked above
		return e, nil
	}
	body, err := c.unzip.DecodeAll(value[n+int(size):], nil) //nolint:gosec // checked above
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCacheValue, err)
	}
	e.body = body
	return e, nil
}

// close releases what the compressors hold.
func (c *cache) close() {
	c.bucket.close()
	_ = c.zip.Close()
	c.unzip.Close()
}
