package providers

import (
	"slices"
)

// rightExport is the one right that nobody holds without a profile: the
// personal plans of all four built-in APIs forbid handing data on.
const rightExport = "export"

// rightAll in a profile stands for every right.
const rightAll = "*"

// Rights are the agents' profiles. A nil *Rights is no profiles at all: then
// every agent holds every right but export.
type Rights struct {
	Agents  map[string][]string // rights held, by agent
	Default []string            // held by agents that are not in Agents
}

// Check tells whether an agent may ask an operation for these uses. The error
// is a *RightsError. What a tier forbids, no profile grants.
func (r *Rights) Check(agent string, p *Provider, op *Operation, use []string) error {
	forbidden := p.Tiers[p.Tier].Forbids
	for _, right := range slices.Concat(p.Rights, op.Rights, use) {
		e := &RightsError{Agent: agent, Provider: p.Name, Operation: op.Name, Right: right}
		if slices.Contains(forbidden, right) {
			e.Tier = p.Tier
			return e
		}
		if !r.holds(agent, right) {
			return e
		}
	}
	return nil
}

func (r *Rights) holds(agent, right string) bool {
	if r == nil {
		return right != rightExport
	}
	held, ok := r.Agents[agent]
	if !ok {
		held = r.Default
	}
	return slices.Contains(held, right) || slices.Contains(held, rightAll)
}
