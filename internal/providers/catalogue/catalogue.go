package catalogue

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"fetchworker/internal/providers/sheet"
)

// defaultTimeout is the timeout of a catalogue provider that gives none.
const defaultTimeout = 10 * time.Second

// Base gives the data sheets that a catalogue goes over, when some of their
// base URLs are the catalogue's: they select the generation of an API.
type Base func(baseURLs map[string]string) map[string]sheet.Spec

// Read applies a catalogue file to the built-in sheets: what it says of a
// provider that exists changes that one, any other name is a new provider.
// See docs/catalogue.md for the fields. The mistakes are all in err, each with
// its line; wrong are the providers that have some.
func Read(file string, content []byte, builtin Base) (specs map[string]sheet.Spec, wrong []string, err error) {
	d := newDocument(file, "catalogue")
	var named []*yaml.Node // name and value, one after the other
	if root := d.parse(content); root != nil {
		d.fields(root, "", map[string]func(*yaml.Node){
			"providers": func(n *yaml.Node) {
				d.each(n, "providers", func(key, value *yaml.Node) { named = append(named, key, value) })
			},
		})
	}

	specs = builtin(baseURLs(named))
	for i := 0; i < len(named); i += 2 {
		key, value := named[i], named[i+1]
		name := key.Value
		spec, exists := specs[name]
		if !exists {
			spec = sheet.Spec{Name: name, EnvPrefix: envPrefix(name), Timeout: defaultTimeout, Fresh: time.Minute, Stale: day}
		}
		mistakes := len(d.errs)
		d.lines[name] = key.Line
		d.spec(value, name, &spec)
		if len(d.errs) == mistakes { // what follows from a mistake is none of its own
			d.judge(name, &spec)
			d.variables(key, &spec, specs)
		}
		if len(d.errs) > mistakes {
			wrong = append(wrong, name)
		}
		specs[name] = spec
	}
	return specs, append(wrong, d.quotas(specs)...), d.err()
}

// quotas checks that all who share a quota have the same limits, and tells of
// the lines of both that do not.
func (d *document) quotas(specs map[string]sheet.Spec) (wrong []string) {
	first := map[string]string{} // provider, by quota
	names := slices.Collect(maps.Keys(specs))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(d.lineOf(a), d.lineOf(b)), cmp.Compare(a, b)) })
	for _, name := range names {
		spec := specs[name]
		if spec.Quota == "" {
			continue
		}
		other, ok := first[spec.Quota]
		if !ok {
			first[spec.Quota] = name
			continue
		}
		like := specs[other]
		for _, field := range []struct{ name, is, want string }{
			{"limits", spec.Together(), like.Together()},
			{"concurrency", strconv.FormatInt(spec.AtOnce, 10), strconv.FormatInt(like.AtOnce, 10)},
		} {
			if field.is != field.want {
				d.failAt(d.lineOf(name+"."+field.name), "%s.%s: %s: expected %s as %s has in line %d, which shares the quota %s", name, field.name, field.is, field.want, other, d.lineOf(other+"."+field.name), spec.Quota)
				wrong = append(wrong, name)
			}
		}
	}
	return wrong
}

// judge reports what the sheet's own validation finds, each at the line of
// the field it is about, or of the nearest that the file has.
func (d *document) judge(name string, spec *sheet.Spec) {
	found, _ := spec.Validate().(sheet.Mistakes) //nolint:errorlint // it returns nothing else
	for _, mistake := range found {
		path := strings.TrimSuffix(name+"."+mistake.Path, ".")
		d.failAt(d.lineOf(path), "%s: %s", path, mistake.Text)
	}
}

// lineOf is the line of a field, or of the nearest one around it that the
// file has.
func (d *document) lineOf(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		dot := strings.LastIndexByte(path, '.')
		if dot < 0 {
			return 1
		}
		path = path[:dot]
	}
}

// variables checks that no two providers read the same ones.
func (d *document) variables(n *yaml.Node, spec *sheet.Spec, others map[string]sheet.Spec) {
	for other := range others {
		if o := others[other]; other != spec.Name && (o.EnvPrefix == spec.EnvPrefix || o.KeyVariable() == spec.KeyVariable()) {
			d.fail(n, "%s: its variables would be those of %s: give it another env_prefix or key_env", spec.Name, other)
		}
	}
}

// baseURLs are the base URLs a catalogue gives, by provider.
func baseURLs(named []*yaml.Node) map[string]string {
	bases := map[string]string{}
	for i := 0; i < len(named); i += 2 {
		fields := named[i+1].Content
		for j := 0; j+1 < len(fields); j += 2 {
			if fields[j].Value == "base_url" {
				bases[named[i].Value] = follow(fields[j+1]).Value
			}
		}
	}
	return bases
}

// envPrefix is a provider's name as variables are named.
func envPrefix(name string) string {
	prefix := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	if prefix != "" && prefix[0] >= '0' && prefix[0] <= '9' {
		prefix = "P" + prefix // no shell can set a variable that begins with a digit
	}
	return prefix
}
