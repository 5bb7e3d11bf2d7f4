package catalogue

import (
	yaml "go.yaml.in/yaml/v3"

	"fetchworker/internal/providers/sheet"
)

// Rights reads a file of profiles:
//
//	agents:
//	  alice: [fundamentals, options_data]
//	  bob: [export]
//	  trusted: ["*"]        # every right
//	default: [fundamentals]  # agents that are not named; none without it
//
// Mistakes are reported together, each with its line.
func Rights(file string, content []byte) (agents map[string][]string, others []string, err error) {
	d := newDocument(file, "rights")
	agents = map[string][]string{}
	if root := d.parse(content); root != nil {
		d.fields(root, "", map[string]func(*yaml.Node){
			"default": d.rights("default", &others),
			"agents": func(n *yaml.Node) {
				d.each(n, "agents", func(key, value *yaml.Node) {
					if !sheet.NamePattern.MatchString(key.Value) {
						d.fail(key, "agent %q: expected %s", key.Value, sheet.ExpectedName)
					}
					var held []string
					d.rights("agents."+key.Value, &held)(value)
					agents[key.Value] = held
				})
			},
		})
	}
	return agents, others, d.err()
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
			if right != "*" && !sheet.NamePattern.MatchString(right) {
				d.fail(n, "%s: right %q: expected \"*\" or %s", where, right, sheet.ExpectedName)
			}
		}
	}
}
