package providers

import (
	"slices"

	yaml "go.yaml.in/yaml/v3"
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

// ParseRights reads a file of profiles:
//
//	agents:
//	  alice: [fundamentals, options_data]
//	  bob: [export]
//	  trusted: ["*"]        # every right
//	default: [fundamentals]  # agents that are not named; none without it
//
// Mistakes are reported together, each with its line.
func ParseRights(file string, content []byte) (*Rights, error) {
	d := &document{file: file}
	rights := &Rights{Agents: map[string][]string{}}
	if root := d.parse(content); root != nil {
		d.fields(root, "rights", map[string]func(*yaml.Node){
			"default": d.rights("default", &rights.Default),
			"agents": func(n *yaml.Node) {
				d.each(n, "agents", func(key, value *yaml.Node) {
					if !namePattern.MatchString(key.Value) {
						d.fail(key, "agent %q: expected %s", key.Value, expectedName)
					}
					var held []string
					d.rights("agents."+key.Value, &held)(value)
					rights.Agents[key.Value] = held
				})
			},
		})
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return rights, nil
}

// rights reads a list of rights: names, or "*" for all. An empty list is one;
// nothing at all is rather a line that was not finished.
func (d *document) rights(where string, to *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Tag == "!!null" {
			d.fail(n, "%s: expected a list of rights, [] for none", where)
			return
		}
		d.list(where, to)(n)
		for _, right := range *to {
			if right != "*" && !namePattern.MatchString(right) {
				d.fail(n, "%s: right %q: expected \"*\" or %s", where, right, expectedName)
			}
		}
	}
}
