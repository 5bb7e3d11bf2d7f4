package plan

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"fetchworker/internal/providers/sheet"
)

// counted is an operation whose calls have limits of their own, or count as
// several. get reaches its path, too, and must not be a way around that.
type counted struct {
	path  *regexp.Regexp // unescaped
	group string
	cost  int
}

const slot = "any-text-here"

// count finds the operations that get's calls may be of: first those of groups,
// and of them the dearest.
func (p *API) count() {
	for _, name := range p.Names() {
		op := p.Operations[name]
		if op.Method == http.MethodPost || op.LimitGroup() == "" && op.Units() == 1 {
			continue
		}
		values := map[string]string{}
		for _, found := range sheet.SlotPattern.FindAllStringSubmatch(op.Path, -1) {
			values[found[1]] = slot
		}
		path := regexp.QuoteMeta(normal(p.ready[op].path.fill(values)))
		pattern := regexp.MustCompile(`(?i)^` + strings.ReplaceAll(path, regexp.QuoteMeta(slot), `[^/]+`) + `$`)
		p.counted = append(p.counted, counted{pattern, op.LimitGroup(), op.Units()})
	}
	slices.SortStableFunc(p.counted, func(a, b counted) int {
		if grouped := a.group != ""; grouped != (b.group != "") {
			return map[bool]int{true: -1, false: 1}[grouped]
		}
		return b.cost - a.cost
	})
}

// countsAs is the group and the cost of a call of get by its path.
func (p *API) countsAs(escaped string) (group string, cost int) {
	if len(p.counted) > 0 {
		path := normal(escaped)
		for _, c := range p.counted {
			if c.path.MatchString(path) {
				return c.group, c.cost
			}
		}
	}
	return "", 1
}

var slashes = regexp.MustCompile(`/+`)

// normal is a path as servers take it, however it was written.
func normal(escaped string) string {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		path = escaped
	}
	return strings.TrimSuffix(slashes.ReplaceAllString(path, "/"), "/")
}
