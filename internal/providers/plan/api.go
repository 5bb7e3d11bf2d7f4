package plan

import (
	"maps"
	"net/url"
	"regexp"
	"slices"

	"fetchworker/internal/providers/sheet"
)

// API is a data sheet that has been checked whole and made ready: it plans
// calls. It is safe for concurrent use.
type API struct {
	sheet.Spec // in force: Limits are all windows together

	base     *url.URL
	patterns map[string]*regexp.Regexp
	ready    map[*sheet.Operation]*ready
	counted  []counted
}

// ready is what is the same for every call of an operation. Found anew for each,
// with the patterns that find it, it was a fiftieth of the worker's CPU.
type ready struct {
	path    template // with the base's
	query   []Fixed
	secrets []Fixed
}

// Fixed is a query parameter that calls carry unless they say otherwise.
type Fixed struct{ Name, Text string }

// SecretQuery are the parameters of a call's query whose text names a secret: they
// are sent and nowhere shown.
func (p *API) SecretQuery(c *Call) []Fixed { return p.ready[c.Operation].secrets }

// New checks a spec whole and makes it ready to plan calls. The error names
// what is wrong, never a line or a variable: the caller knows those.
func New(spec sheet.Spec) (*API, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	base, err := sheet.ParseBase(spec.BaseURL)
	if err != nil {
		return nil, err
	}
	p := &API{Spec: spec, base: base, patterns: map[string]*regexp.Regexp{}, ready: map[*sheet.Operation]*ready{}}
	p.Limits = slices.Clone(spec.Limits)
	if len(p.Limits) > 0 { // unlimited by wish means that no tier limits either
		p.Limits = append(p.Limits, spec.Tiers[spec.Tier].Limits...)
	}
	p.Operations = make(map[string]*sheet.Operation, len(spec.Operations)+1)
	for name, op := range spec.Operations {
		ready := *op
		p.Operations[name] = &ready
	}
	p.Operations[sheet.Get] = &sheet.Operation{
		Name: sheet.Get, Format: sheet.FormatAny, Paging: spec.GetPaging,
		Rights: allRights(spec.Operations),
	}
	for _, op := range p.Operations {
		p.prepare(op)
	}
	p.count()
	return p, nil
}

// Base is scheme and host, and perhaps a path, of every call.
func (p *API) Base() *url.URL { return p.base }

// prepare fills in what an operation takes from its provider.
func (p *API) prepare(op *sheet.Operation) {
	if op.Fresh == 0 {
		op.Fresh = p.Fresh
	}
	if op.Stale == 0 {
		op.Stale = p.Stale
	}
	if op.Format == "" {
		op.Format = sheet.FormatJSON
	}
	for i := range op.Params {
		pattern, _ := op.Params[i].Compile() // validated
		p.patterns[op.Params[i].Pattern] = pattern
	}
	r := &ready{path: newTemplate(p.base.EscapedPath(), op.Path)}
	for _, fixed := range []map[string]string{op.Query, p.Query} { // the first of a name counts
		for _, name := range slices.Sorted(maps.Keys(fixed)) {
			if text := fixed[name]; sheet.SecretPattern.MatchString(text) {
				r.secrets = append(r.secrets, Fixed{name, text})
			} else {
				r.query = append(r.query, Fixed{name, text})
			}
		}
	}
	p.ready[op] = r
}

// allRights are the rights get needs: it reaches every path of the API, so it
// must not be a way around the rights of the operations that have names.
func allRights(operations map[string]*sheet.Operation) []string {
	var rights []string
	for _, op := range operations {
		rights = append(rights, op.Rights...)
	}
	slices.Sort(rights)
	return slices.Compact(rights)
}
