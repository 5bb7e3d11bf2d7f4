package plan

import (
	"net/url"
	"strings"

	"fetchworker/internal/providers/sheet"
)

// template is a path with slots for parameters.
type template struct {
	parts []part
	end   string // escaped
}

// part is a slot and what stands before it.
type part struct {
	before string // escaped
	param  string
}

// newTemplate takes a path apart. What is written in it is escaped as well as
// the values, or one character beyond ASCII would make net/url escape the whole
// path anew, and a value's %2F would become a slash.
func newTemplate(base, path string) template {
	t, rest, taken := template{}, base, 0
	for _, slot := range sheet.SlotPattern.FindAllStringSubmatchIndex(path, -1) {
		rest += escapeLiteral(path[taken:slot[0]])
		t.parts = append(t.parts, part{rest, path[slot[2]:slot[3]]})
		rest, taken = "", slot[1]
	}
	t.end = rest + escapeLiteral(path[taken:])
	return t
}

// fill puts values into the slots.
func (t template) fill(values map[string]string) string {
	if len(t.parts) == 0 {
		return t.end
	}
	var path strings.Builder
	for _, p := range t.parts {
		path.WriteString(p.before)
		path.WriteString(escapeSegment(values[p.param]))
	}
	path.WriteString(t.end)
	return path.String()
}

// escapeLiteral escapes what is written in a path and is not escaped yet.
func escapeLiteral(literal string) string {
	decoded, err := url.PathUnescape(literal)
	if err != nil {
		decoded = literal
	}
	u := url.URL{Path: decoded, RawPath: literal}
	return u.EscapedPath()
}

// escapeSegment escapes a value for one path segment. Commas stay: lists of
// symbols are paths in some APIs, and a comma is legal there.
func escapeSegment(value string) string {
	return strings.ReplaceAll(url.PathEscape(value), "%2C", ",")
}
