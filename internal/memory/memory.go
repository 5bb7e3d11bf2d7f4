// Package memory bounds what large bodies take of the process's memory. Small
// ones take theirs without asking; a large one waits for room before it is
// read on, and nobody small waits for it.
//
// Room is free again when the garbage collector has taken the body back, not
// when somebody says that he is done with it: a body is shared by the cache,
// by requests that asked for the same, and by the answer on its way, and none
// of them has to know of the others.
package memory

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Small is how long a body may be to take its memory without asking, in bytes.
const Small = 1 << 20

// Light is how long a body may be to be looked through without a turn, in bytes.
const Light = 64 << 10

// MaxBody is the longest body that is read at all, in bytes, unpacked.
const MaxBody = 64 << 20

// Budget is the memory that large bodies may take, all together. It is safe
// for concurrent use. A nil one bounds nothing.
type Budget struct {
	most int64
	used atomic.Int64 // by what is reserved, and by bodies that are not yet collected

	head   chan struct{}       // held by the one who is next to get room
	ended  atomic.Int64        // counts what may have become garbage
	small  atomic.Int64        // when a small answer was last on its way, Unix time in nanoseconds
	short  atomic.Int64        // when somebody last found that processors are short, likewise
	works  *semaphore.Weighted // large bodies that are looked through at the same time
	lesser *semaphore.Weighted // those between light and large: they do not wait for large ones
	parked *semaphore.Weighted // bytes of bodies that have come, and wait to be unpacked

	mu    sync.Mutex
	spare []func() // gives up what is only kept in case somebody asks for it
}

// New is a budget of so many bytes.
func New(bytes int64) *Budget {
	atOnce := int64(max(1, runtime.GOMAXPROCS(0)/2))
	return &Budget{
		most: bytes, head: make(chan struct{}, 1),
		works: semaphore.NewWeighted(atOnce), lesser: semaphore.NewWeighted(atOnce),
		parked: semaphore.NewWeighted(bytes / 4),
	}
}

// Spare names what gives up memory when somebody waits for it.
func (b *Budget) Spare(forget func()) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spare = append(b.spare, forget)
}

// Ended says that a large body may have become garbage.
func (b *Budget) Ended() {
	if b != nil {
		b.ended.Add(1)
	}
}

const (
	// roomLooks is how often one who waits looks whether there is room.
	roomLooks = 5 * time.Millisecond
	// collectSoon is after how many of them it collects the garbage when a body
	// may have become garbage, collectLate when nothing is known to have.
	collectSoon, collectLate = 4, 100
)

// Reserve waits for room for so many bytes: those who came before go before.
// What is more than the whole budget gets all of it. Its error is the context's.
func (b *Budget) Reserve(ctx context.Context, bytes int64) (*Room, error) {
	if b == nil {
		return &Room{}, nil
	}
	select {
	case b.head <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-b.head }()
	bytes = min(bytes, b.most)
	seen := int64(-1)
	for looks := 0; !b.fits(bytes); looks++ {
		if ended := b.ended.Load(); ended != seen && looks%collectSoon == 0 || looks%collectLate == 0 {
			seen = ended
			b.collect()
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(roomLooks): //nolint:forbidigo // beside ctx
		}
	}
	return &Room{b, bytes}, nil
}

// TryReserve is Reserve for one who does not wait: nil if there is no room, or
// somebody waits for it already.
func (b *Budget) TryReserve(bytes int64) *Room {
	if b == nil {
		return &Room{}
	}
	select {
	case b.head <- struct{}{}:
	default:
		return nil
	}
	defer func() { <-b.head }()
	if bytes = min(bytes, b.most); b.fits(bytes) {
		return &Room{b, bytes}
	}
	return nil
}

// fits takes so many bytes if they are there; only the head adds.
func (b *Budget) fits(bytes int64) bool {
	if b.used.Load()+bytes > b.most {
		return false
	}
	b.used.Add(bytes)
	return true
}

// collect makes garbage of what is kept without need, and takes it back.
func (b *Budget) collect() {
	b.mu.Lock()
	for _, forget := range b.spare {
		forget()
	}
	b.mu.Unlock()
	runtime.GC()
}

// Park takes note of so many bytes of a body that has come and waits to be
// unpacked. It is false where too many wait already; unpark ends it.
func (b *Budget) Park(bytes int) (unpark func(), ok bool) {
	if b == nil || !b.parked.TryAcquire(int64(bytes)) {
		return nil, false
	}
	return func() { b.parked.Release(int64(bytes)) }, true
}

// Turn waits until a large body may be looked through: that takes a processor,
// and one or two at a time leave others to small ones. done ends it.
func (b *Budget) Turn(ctx context.Context) (done func(), err error) {
	if b == nil {
		return func() {}, nil
	}
	if err := b.works.Acquire(ctx, 1); err != nil {
		return func() {}, context.Cause(ctx)
	}
	return func() { b.works.Release(1) }, nil
}

// LesserTurn is Turn for a body that is neither light nor large. It takes a
// processor for some milliseconds, which is nothing; but of one agent's all that
// came at a time together would stand before everybody's small answers.
func (b *Budget) LesserTurn(ctx context.Context) (done func(), err error) {
	if b == nil {
		return func() {}, nil
	}
	if err := b.lesser.Acquire(ctx, 1); err != nil {
		return func() {}, context.Cause(ctx)
	}
	return func() { b.lesser.Release(1) }, nil
}

// Room is memory that is reserved, for one goroutine.
type Room struct {
	b     *Budget
	bytes int64
}

// Make takes memory for a body of up to so many bytes out of the room. It
// counts until the body, and all that is cut of it, is garbage.
func (r *Room) Make(bytes int) []byte {
	body := make([]byte, 0, bytes)
	if r.b == nil || bytes == 0 {
		return body
	}
	taken := min(int64(bytes), r.bytes)
	r.bytes -= taken
	used := &r.b.used
	runtime.AddCleanup(&body[:1][0], func(taken int64) { used.Add(-taken) }, taken)
	return body
}

// Close gives back what was reserved and not taken.
func (r *Room) Close() {
	if r.b != nil {
		r.b.used.Add(-r.bytes)
		r.bytes = 0
	}
}
