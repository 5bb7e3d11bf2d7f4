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
		pace := b.Pace(int64(len(body)))
		for piece := range slices.Chunk(body, slice) {
			if !yield(piece) {
				return
			}
			pace.did(len(piece))
		}
		pace.End()
	}
}

// Pace gives others their turn while a large body is written somewhere: that
// takes a processor for half a second, and on two small answers would wait
// for the other one. While there are any, who looks through a large body rests
// for as long as it works; who looks through one that is neither light nor large
// rests longer where processors are short, since of those hundreds come in a
// second, and each takes as long again to be read and stored.
type Pace struct {
	b      *Budget
	lesser bool
	had    int
	since  time.Time // it works; zero: it begins with the next piece
}

// Pace is for one body of so many bytes.
func (b *Budget) Pace(bytes int64) *Pace {
	return &Pace{b: b, lesser: bytes <= Small, since: time.Now()}
}

// Write counts what was written.
func (p *Pace) Write(piece []byte) (int, error) {
	p.did(len(piece))
	return len(piece), nil
}

// End says that the body is written: its last piece counts, too, which of the
// shortest is all of it.
func (p *Pace) End() {
	if p.had > 0 {
		p.rests()
	}
}

func (p *Pace) did(bytes int) {
	if p.had += bytes; p.had >= slice {
		p.rests()
	}
}

func (p *Pace) rests() {
	p.had = 0
	now := time.Now()
	if !p.b.crowded(now) {
		runtime.Gosched()
		p.since = now
		return
	}
	rest := p.rest(now)
	time.Sleep(rest) //nolint:forbidigo // far shorter than anybody waits for
	p.since = time.Now()
	if p.since.Sub(now)-rest > wokenLate {
		p.b.short.Store(p.since.UnixNano())
	}
}

// rest is how long to rest.
func (p *Pace) rest(now time.Time) time.Duration {
	worked := now.Sub(p.since)
	if p.lesser && now.UnixNano()-p.b.short.Load() < int64(smallLasts) {
		return min(restsOver*worked, longestOver)
	}
	return min(worked, longestRest)
}

const (
	// longestRest bounds a rest: where nobody let us work for a while, that was
	// one already.
	longestRest = 5 * time.Millisecond
	// smallLasts is how long after a small answer another is expected, and how
	// long processors are thought to be short.
	smallLasts = 250 * time.Millisecond
	// wokenLate is how long after its rest somebody goes on where processors are
	// short: a clock is a millisecond late anywhere.
	wokenLate = 2 * time.Millisecond
	// restsOver is how many times as long as it works a lesser body then rests,
	// and longestOver bounds that.
	restsOver, longestOver = 4, 15 * time.Millisecond
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
