package sheet

import (
	"cmp"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// API is a data sheet that has been checked whole and made ready: it plans
// calls. It is safe for concurrent use.
type API struct {
	Spec // in force: Limits are all windows together

	base     *url.URL
	patterns map[string]*regexp.Regexp
}

// New checks a spec whole and makes it ready to plan calls. The error names
// what is wrong, never a line or a variable: the caller knows those.
func New(spec Spec) (*API, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	base, err := ParseBase(spec.BaseURL)
	if err != nil {
		return nil, err
	}
	p := &API{Spec: spec, base: base, patterns: map[string]*regexp.Regexp{}}
	p.Limits = slices.Clone(spec.Limits)
	if len(p.Limits) > 0 { // unlimited by wish means that no tier limits either
		p.Limits = append(p.Limits, spec.Tiers[spec.Tier].Limits...)
	}
	p.Operations = make(map[string]*Operation, len(spec.Operations)+1)
	for name, op := range spec.Operations {
		ready := *op
		p.Operations[name] = &ready
	}
	p.Operations[opGet] = &Operation{
		Name: opGet, Format: FormatAny, Paging: spec.GetPaging,
		Rights: allRights(spec.Operations),
	}
	for _, op := range p.Operations {
		p.prepare(op)
	}
	return p, nil
}

// Base is scheme and host, and perhaps a path, of every call.
func (p *API) Base() *url.URL { return p.base }

// prepare fills in what an operation takes from its provider.
func (p *API) prepare(op *Operation) {
	if op.Fresh == 0 {
		op.Fresh = p.Fresh
	}
	if op.Stale == 0 {
		op.Stale = p.Stale
	}
	if op.Format == "" {
		op.Format = FormatJSON
	}
	for i := range op.Params {
		pattern, _ := op.Params[i].compile() // validated
		p.patterns[op.Params[i].Pattern] = pattern
	}
}

// TimeoutOf is the time-out of an operation's calls.
func (s *Spec) TimeoutOf(op *Operation) time.Duration { return cmp.Or(op.Timeout, s.Timeout) }

// LongestTimeout is the longest that any call of the provider may take.
func (s *Spec) LongestTimeout() time.Duration {
	longest := s.Timeout
	for _, op := range s.Operations {
		longest = max(longest, op.Timeout)
	}
	return longest
}

// allRights are the rights get needs: it reaches every path of the API, so it
// must not be a way around the rights of the operations that have names.
func allRights(operations map[string]*Operation) []string {
	var rights []string
	for _, op := range operations {
		rights = append(rights, op.Rights...)
	}
	slices.Sort(rights)
	return slices.Compact(rights)
}

// ParseBase accepts what a base URL may be and nothing that could carry a key
// or send one elsewhere.
func ParseBase(text string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil: // the text of a *url.Error repeats the URL
		return nil, errors.New("not a URL")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, errors.New("expected http://host/path or https://host/path")
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, errors.New("expected a URL without user, query and fragment")
	}
	return base, nil
}
