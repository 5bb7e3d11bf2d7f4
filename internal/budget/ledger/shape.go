package ledger

import (
	"slices"
	"time"
)

// Shape is a window and what follows from it.
type Shape struct {
	Window
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
	late := min(250*time.Millisecond, w.Per/20)
	s.grace = min(max(w.Per/200, 20*time.Millisecond), 200*time.Millisecond)
	s.k = int64((w.Per+late+s.grace+s.Tick-1)/s.Tick) + 1
	s.span = time.Duration(s.k) * s.Tick
	s.Gap = max(s.span/time.Duration(w.N), 1)
	return s
}

// NewShapes are the shapes of all windows; of two as long, the stricter one.
func NewShapes(l Limits) []Shape {
	shapes := make([]Shape, 0, len(l))
	for _, w := range l {
		if i := slices.IndexFunc(shapes, func(s Shape) bool { return s.Per == w.Per }); i < 0 {
			shapes = append(shapes, newShape(w))
		} else if w.N < shapes[i].N {
			shapes[i] = newShape(w)
		}
	}
	return shapes
}

func (s Shape) at(t Instant) int64       { return int64(t) / int64(s.Tick) }
func (s Shape) start(tick int64) Instant { return Instant(tick * int64(s.Tick)) }
func (s Shape) end(tick int64) Instant   { return s.start(tick + 1) }
