package catalogue

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"fetchworker"
	"fetchworker/internal/providers/sheet"
)

// defaultTimeout is the timeout of a catalogue provider that gives none.
const defaultTimeout = 10 * time.Second

var authKinds = []sheet.AuthKind{sheet.AuthNone, sheet.AuthBearer}

// Base gives the data sheets that a catalogue goes over, when some of their
// base URLs are the catalogue's: they select the generation of an API.
type Base func(baseURLs map[string]string) map[string]sheet.Spec

// Read applies a catalogue file to the built-in sheets: what it says of a
// provider that exists changes that one, any other name is a new provider.
// See docs/catalogue.md for the fields. The mistakes are all in err, each with
// its line; wrong are the providers that have some.
func Read(file string, content []byte, builtin Base) (specs map[string]sheet.Spec, wrong []string, err error) {
	d := &document{file: file}
	var named []*yaml.Node // name and value, one after the other
	if root := d.parse(content); root != nil {
		d.fields(root, "catalogue", map[string]func(*yaml.Node){
			"providers": func(n *yaml.Node) {
				d.each(n, "providers", func(key, value *yaml.Node) { named = append(named, key, value) })
			},
		})
	}

	specs = builtin(baseURLs(named))
	for i := 0; i < len(named); i += 2 {
		name := named[i].Value
		spec, exists := specs[name]
		if !exists {
			spec = sheet.Spec{Name: name, EnvPrefix: envPrefix(name), Timeout: defaultTimeout, Fresh: time.Minute, Stale: day}
			if !sheet.NamePattern.MatchString(name) {
				d.fail(named[i], "provider %q: expected %s", name, sheet.ExpectedName)
			}
		}
		mistakes := len(d.errs)
		d.spec(named[i+1], name, &spec)
		if len(d.errs) == mistakes { // what follows from a mistake is none of its own
			d.check(named[i], name, spec.Validate())
			d.whole(named[i], name, &spec, specs)
		}
		if len(d.errs) > mistakes {
			wrong = append(wrong, name)
		}
		specs[name] = spec
	}
	return specs, wrong, d.err()
}

// whole checks what only a complete provider shows.
func (d *document) whole(n *yaml.Node, name string, spec *sheet.Spec, others map[string]sheet.Spec) {
	if _, err := sheet.ParseBase(spec.BaseURL); err != nil {
		d.fail(n, "%s: base_url: %v", name, err)
	}
	if _, ok := spec.Tiers[spec.Tier]; !ok && (spec.Tier != "" || len(spec.Tiers) > 0) {
		d.fail(n, "%s: tier %q: expected one of tiers: %s", name, spec.Tier, strings.Join(slices.Sorted(maps.Keys(spec.Tiers)), ", "))
	}
	for other := range others {
		if o := others[other]; other != name && (o.EnvPrefix == spec.EnvPrefix || o.KeyVariable() == spec.KeyVariable()) {
			d.fail(n, "%s: its variables would be those of %s: give it another env_prefix or key_env", name, other)
		}
	}
}

// baseURLs are the base URLs a catalogue gives, by provider.
func baseURLs(named []*yaml.Node) map[string]string {
	bases := map[string]string{}
	for i := 0; i < len(named); i += 2 {
		for j := 0; j+1 < len(named[i+1].Content); j += 2 {
			if named[i+1].Content[j].Value == "base_url" {
				bases[named[i].Value] = named[i+1].Content[j+1].Value
			}
		}
	}
	return bases
}

// envPrefix is a provider's name as variables are named.
func envPrefix(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// spec reads one provider over what it is already.
func (d *document) spec(n *yaml.Node, name string, spec *sheet.Spec) {
	at := func(field string) string { return name + "." + field }
	d.fields(n, name, map[string]func(*yaml.Node){
		"base_url":        d.text(at("base_url"), &spec.BaseURL),
		"env_prefix":      d.text(at("env_prefix"), &spec.EnvPrefix),
		"key_env":         d.text(at("key_env"), &spec.KeyEnv),
		"auth":            d.auth(at("auth"), &spec.Auth),
		"key_params":      d.list(at("key_params"), &spec.KeyParams),
		"query":           d.texts(at("query"), &spec.Query),
		"headers":         d.texts(at("headers"), &spec.Header),
		"limits":          d.limits(at("limits"), &spec.Limits),
		"tier":            d.text(at("tier"), &spec.Tier),
		"tiers":           func(n *yaml.Node) { d.tiers(n, at("tiers"), spec) },
		"bytes_per_month": d.bytes(at("bytes_per_month"), &spec.BytesPerMonth),
		"timeout":         d.duration(at("timeout"), &spec.Timeout),
		"fresh":           d.age(at("fresh"), &spec.Fresh),
		"stale":           d.age(at("stale"), &spec.Stale),
		"rights":          d.list(at("rights"), &spec.Rights),
		"notice":          d.text(at("notice"), &spec.Notice),
		"error_text":      d.list(at("error_text"), &spec.ErrorText),
		"own":             func(n *yaml.Node) { d.rules(n, at("own"), &spec.Own, (*sheet.Rule).ValidateOwn) },
		"errors":          func(n *yaml.Node) { d.rules(n, at("errors"), &spec.ErrorRules, (*sheet.Rule).Validate) },
		"get_paths":       func(n *yaml.Node) { d.getPaths(n, at("get_paths"), spec) },
		"get_paging":      func(n *yaml.Node) { d.paging(n, at("get_paging"), &spec.GetPaging) },
		"operations": func(n *yaml.Node) {
			operations := maps.Clone(spec.Operations)
			if operations == nil {
				operations = map[string]*sheet.Operation{}
			}
			d.each(n, at("operations"), func(key, value *yaml.Node) {
				op := sheet.Operation{Name: key.Value}
				if known := operations[key.Value]; known != nil {
					op = *known
				}
				d.operation(key, value, name+" "+key.Value, &op)
				operations[key.Value] = &op
			})
			spec.Operations = operations
		},
	})
}

func (d *document) auth(where string, to *sheet.Auth) func(*yaml.Node) {
	return func(n *yaml.Node) {
		auth := sheet.Auth{}
		if n.Kind == yaml.ScalarNode {
			word(d, where, &auth.Kind, authKinds)(n)
		} else {
			if n.Kind == yaml.MappingNode && len(n.Content) != 2 {
				d.fail(n, "%s: expected one of query and header", where)
			}
			d.fields(n, where, map[string]func(*yaml.Node){
				"query":  func(n *yaml.Node) { auth.Kind = sheet.AuthQuery; d.text(where, &auth.Name)(n) },
				"header": func(n *yaml.Node) { auth.Kind = sheet.AuthHeader; d.text(where, &auth.Name)(n) },
			})
		}
		*to = auth
	}
}

func (d *document) tiers(n *yaml.Node, where string, spec *sheet.Spec) {
	tiers := maps.Clone(spec.Tiers)
	if tiers == nil {
		tiers = map[string]sheet.Tier{}
	}
	d.each(n, where, func(key, value *yaml.Node) {
		tier := tiers[key.Value]
		d.fields(value, where+"."+key.Value, map[string]func(*yaml.Node){
			"limits":  d.limits(where+".limits", &tier.Limits),
			"forbids": d.list(where+".forbids", &tier.Forbids),
		})
		tiers[key.Value] = tier
	})
	spec.Tiers = tiers
}

// rules reads rules; they are tried before those a provider has.
func (d *document) rules(n *yaml.Node, where string, to *[]sheet.Rule, validate func(*sheet.Rule) error) {
	var rules []sheet.Rule
	d.sequence(n, where, func(item *yaml.Node) {
		var rule sheet.Rule
		var class, code string
		mistakes := len(d.errs)
		d.fields(item, where, map[string]func(*yaml.Node){
			"status":   func(n *yaml.Node) { d.statuses(n, where+".status", &rule.Status) },
			"at":       d.list(where+".at", &rule.At),
			"equals":   d.list(where+".equals", &rule.Equals),
			"prefix":   d.list(where+".prefix", &rule.Prefix),
			"contains": d.list(where+".contains", &rule.Contains),
			"class":    d.text(where+".class", &class),
			"code":     d.text(where+".code", &code),
			"min_hold": d.duration(where+".min_hold", &rule.MinHold),
			"no_cache": d.boolean(where+".no_cache", &rule.NoCache),
			"hint":     d.text(where+".hint", &rule.Hint),
		})
		for i, pointer := range rule.At {
			if pointer == "body" {
				rule.At[i] = ""
			}
		}
		rule.Class, rule.Code = fetchworker.Class(class), fetchworker.Code(code)
		if len(d.errs) == mistakes {
			d.check(item, where, validate(&rule))
		}
		rules = append(rules, rule)
	})
	*to = append(rules, *to...)
}

// statuses reads 400 or 4xx, one or a list.
func (d *document) statuses(n *yaml.Node, where string, to *[]int) {
	var texts []string
	d.list(where, &texts)(n)
	for _, text := range texts {
		status, err := strconv.Atoi(strings.TrimSuffix(text, "xx"))
		if err != nil || strings.HasSuffix(text, "xx") != (status < 10) {
			d.fail(n, "%s: expected statuses such as 400 or 2xx, got %q", where, text)
			return
		}
		*to = append(*to, status)
	}
}

func (d *document) getPaths(n *yaml.Node, where string, spec *sheet.Spec) {
	spec.GetPaths = nil
	d.sequence(n, where, func(item *yaml.Node) {
		path := sheet.GetPath{Auth: spec.Auth}
		d.fields(item, where, map[string]func(*yaml.Node){
			"prefix":    d.text(where+".prefix", &path.Prefix),
			"from_root": d.boolean(where+".from_root", &path.FromRoot),
			"auth":      d.auth(where+".auth", &path.Auth),
		})
		if !strings.HasPrefix(path.Prefix, "/") {
			d.fail(item, "%s.prefix: expected a path such as /v2/, got %q", where, path.Prefix)
		}
		spec.GetPaths = append(spec.GetPaths, path)
	})
}

func (d *document) sequence(n *yaml.Node, where string, use func(item *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, "%s: expected a list, got %s", where, kindOf(n))
		return
	}
	for _, item := range n.Content {
		use(follow(item))
	}
}

// operation reads one operation over what it is already.
func (d *document) operation(key, n *yaml.Node, where string, op *sheet.Operation) {
	mistakes := len(d.errs)
	d.fields(n, where, map[string]func(*yaml.Node){
		"path":      d.text(where+" path", &op.Path),
		"query":     d.texts(where+" query", &op.Query),
		"params":    func(n *yaml.Node) { d.params(n, where, op) },
		"any_of":    d.list(where+" any_of", &op.AnyOf),
		"exclusive": func(n *yaml.Node) { d.exclusive(n, where+" exclusive", op) },
		"auth":      func(n *yaml.Node) { op.Auth = &sheet.Auth{}; d.auth(where+" auth", op.Auth)(n) },
		"rights":    d.list(where+" rights", &op.Rights),
		"format":    word(d, where+" format", &op.Format, sheet.Formats),
		"fresh":     d.age(where+" fresh", &op.Fresh),
		"stale":     d.age(where+" stale", &op.Stale),
		"paging":    func(n *yaml.Node) { d.paging(n, where+" paging", &op.Paging) },
	})
	if len(d.errs) == mistakes {
		d.check(key, where, op.Validate())
	}
}

func (d *document) exclusive(n *yaml.Node, where string, op *sheet.Operation) {
	op.Exclusive = nil
	d.sequence(n, where, func(item *yaml.Node) {
		var names []string
		d.list(where, &names)(item)
		op.Exclusive = append(op.Exclusive, names)
	})
}

// params reads parameters: one that the operation has is replaced.
func (d *document) params(n *yaml.Node, where string, op *sheet.Operation) {
	op.Params = slices.Clone(op.Params)
	d.each(n, where+" params", func(key, value *yaml.Node) {
		param := sheet.Param{Name: key.Value, Type: sheet.TypeString}
		at := fmt.Sprintf("%s parameter %s: ", where, key.Value)
		mistakes := len(d.errs)
		d.fields(value, where+" parameter "+key.Value, map[string]func(*yaml.Node){
			"wire":     d.text(at+"wire", &param.Wire),
			"type":     word(d, at+"type", &param.Type, sheet.ParamTypes),
			"required": d.boolean(at+"required", &param.Required),
			"default":  d.text(at+"default", &param.Default),
			"pattern":  d.text(at+"pattern", &param.Pattern),
			"min":      d.number(at+"min", &param.Min),
			"max":      d.number(at+"max", &param.Max),
			"enum":     d.list(at+"enum", &param.Enum),
			"expected": d.text(at+"expected", &param.Expected),
		})
		if len(d.errs) == mistakes {
			if err := param.Validate(); err != nil {
				d.check(key, where, err)
			}
		}
		if known := op.Param(param.Name); known != nil {
			*known = param
		} else {
			op.Params = append(op.Params, param)
		}
	})
}

func (d *document) paging(n *yaml.Node, where string, to **sheet.Paging) {
	paging := &sheet.Paging{}
	d.fields(n, where, map[string]func(*yaml.Node){
		"kind":  word(d, where+" kind", &paging.Kind, sheet.PagingKinds),
		"param": d.text(where+" param", &paging.Param),
		"first": d.number(where+" first", &paging.First),
		"size":  d.text(where+" size", &paging.Size),
		"each":  d.number(where+" each", &paging.Each),
		"items": d.text(where+" items", &paging.Items),
		"total": d.text(where+" total", &paging.Total),
		"next":  d.text(where+" next", &paging.Next),
	})
	*to = paging
}
