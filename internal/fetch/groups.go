package fetch

import (
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/providers"
)

// Groups are a provider's operations that have limits of their own, or whose
// calls count as several, as its gate wants them.
func Groups(p *providers.Provider) map[string]turns.Group {
	groups := map[string]turns.Group{}
	for name, limits := range p.GroupLimits() {
		groups[name] = turns.Group{Limits: limits}
	}
	for _, op := range p.Operations {
		g := groups[op.LimitGroup()]
		g.Dearest = max(g.Dearest, op.Units())
		groups[op.LimitGroup()] = g
	}
	return groups
}

// ask is what a request tells the gate of itself.
func (r *request) ask() turns.Ask {
	return turns.Ask{
		Call: r.counts, Lane: laneOf(r), Shard: shardOf(r), Alone: r.alone(),
		Group: r.call.Group, Cost: r.call.Cost,
	}
}
