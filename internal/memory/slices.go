package memory

import (
	"iter"
	"runtime"
	"slices"
	"time"
)

// slice is how much of a large body is looked through at a time, in bytes: a
// processor hashes or searches it in a tenth of a millisecond. What does so is
// made of instructions that nothing breaks off, not even the collector, for
// which all others wait.
const slice = 256 << 10

// Slices are the pieces in which a large body is looked through. Between two of
// them others have their turn.
func (b *Budget) Slices(body []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		pace := b.Pace()
		for piece := range slices.Chunk(body, slice) {
			if !yield(piece) {
				return
			}
			pace.did(len(piece))
		}
	}
}

// Pace gives others their turn while a large body is written somewhere: that
// takes a processor for half a second, and on two small answers would wait
// for the other one. While there are any, who looks through a large body rests
// for as long as it works.
type Pace struct {
	b     *Budget
	had   int
	since time.Time // it works; zero: it begins with the next piece
}

// Pace is for one body.
func (b *Budget) Pace() *Pace { return &Pace{b: b, since: time.Now()} }

// Write counts what was written.
func (p *Pace) Write(piece []byte) (int, error) {
	p.did(len(piece))
	return len(piece), nil
}

func (p *Pace) did(bytes int) {
	if p.had += bytes; p.had < slice {
		return
	}
	p.had = 0
	now := time.Now()
	if worked := now.Sub(p.since); p.b.crowded(now) {
		time.Sleep(min(worked, longestRest)) //nolint:forbidigo // far shorter than anybody waits for
		p.since = time.Now()
		return
	}
	runtime.Gosched()
	p.since = now
}

const (
	// longestRest bounds a rest: where nobody let us work for a while, that was
	// one already.
	longestRest = 5 * time.Millisecond
	// smallLasts is how long after a small answer another is expected.
	smallLasts = 250 * time.Millisecond
)

// Small says that a small answer was on its way.
func (b *Budget) Small() {
	if b != nil {
		b.small.Store(time.Now().UnixNano())
	}
}

func (b *Budget) crowded(now time.Time) bool {
	return b != nil && now.UnixNano()-b.small.Load() < int64(smallLasts)
}
