package ledger

import (
	"slices"
	"time"
)

// Shape is a window and what follows from it.
type Shape struct {
	Window
	Group string        // of operations whose calls alone count in it; empty: all of the provider's
	Tick  time.Duration // the validity of a permit
	grace time.Duration // how much later than its tick a permit may still start
	span  time.Duration // the window as the ledger counts it: k ticks
	Gap   time.Duration // the pacer's spacing: span / N
	k     int64         // no k consecutive ticks hold more than N permits
}

// newShape derives a window's ticks. A permit may start anywhere in its tick
// and grace, and its call arrives within late of that. Two calls that arrive
// within Per of each other are therefore less than (Per + late + grace)/tick
// + 1 ticks apart: they lie in k consecutive ticks.
func newShape(w Window) Shape {
	s := Shape{Window: w}
	s.Tick = max(w.Per/256, 20*time.Millisecond)
	s.grace = min(max(w.Per/200, 20*time.Millisecond), 200*time.Millisecond)
	return s.stretched(0)
}

// stretched is the shape with at least a grace: the ledger counts a longer
// window for it.
func (s Shape) stretched(grace time.Duration) Shape {
	s.grace = max(s.grace, grace)
	s.k = int64((s.Per+s.late()+s.grace+s.Tick-1)/s.Tick) + 1
	s.span = time.Duration(s.k) * s.Tick
	s.Gap = max(s.span/time.Duration(s.N), 1)
	return s
}

// late is how long a call may take from its start to the provider.
func (s Shape) late() time.Duration { return min(250*time.Millisecond, s.Per/20) }

const (
	// use is how much of a permit's validity must be left to whoever holds it,
	// beyond what not knowing the time takes off at both ends.
	use = 30 * time.Millisecond
	// graceStep is what a longer grace is rounded to, so that a clock that is
	// now a little surer and now a little less does not change it each time.
	graceStep = 20 * time.Millisecond
)

// needs is the grace under which a permit is of use to a claimer who knows the
// time to within unsure; 0 if the shape's own will do.
func (s Shape) needs(unsure time.Duration) time.Duration {
	need := (2*unsure + use - s.Tick + graceStep - 1).Truncate(graceStep)
	if need <= s.grace {
		return 0
	}
	return need
}

// Reachable reports whether a claimer who knows the time to within unsure can
// use permits of the window at all. Half of the window is the most that is spent
// on it.
func (s Shape) Reachable(unsure time.Duration) bool { return s.needs(unsure) <= s.Per/2 }

// NewShapes are the shapes of all windows; of two as long, the stricter one.
func NewShapes(l Limits) []Shape { return GroupShapes(l, "") }

// GroupShapes are those of the windows of a group of operations.
func GroupShapes(l Limits, group string) []Shape {
	shapes := make([]Shape, 0, len(l))
	for _, w := range l {
		if i := slices.IndexFunc(shapes, func(s Shape) bool { return s.Per == w.Per }); i < 0 {
			shapes = append(shapes, newShape(w))
		} else if w.N < shapes[i].N {
			shapes[i] = newShape(w)
		}
	}
	for i := range shapes {
		shapes[i].Group = group
	}
	return shapes
}

// of reports whether the window is this one.
func (s Shape) of(w *window) bool { return s.Per == w.per && s.Group == w.group }

func (s Shape) at(t Instant) int64       { return int64(t) / int64(s.Tick) }
func (s Shape) start(tick int64) Instant { return Instant(tick * int64(s.Tick)) }
func (s Shape) end(tick int64) Instant   { return s.start(tick + 1) }
