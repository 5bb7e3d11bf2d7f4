package budget

import "math"

// Pace is how many calls a second the limits in force allow over any length
// of time: the slowest of their windows. It is infinite without a limit.
func (g *Gate) Pace() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	limits, _ := g.control.InForce(g.s.Limits, g.clock.Now())
	pace := math.Inf(1)
	for _, w := range limits {
		pace = min(pace, float64(w.N)/w.Per.Seconds())
	}
	return pace
}
