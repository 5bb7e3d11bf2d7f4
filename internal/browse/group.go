package browse

import (
	"hash/fnv"
	"strconv"
	"strings"
	"unicode"

	"fetchworker/internal/dlq"
	"fetchworker/internal/wire"
)

// Group is what letters that failed alike have in common.
type Group struct {
	Provider string     `json:"provider"`
	Class    wire.Class `json:"class"`
	Error    string     `json:"error"`
}

// GroupOf is the group of a letter.
func GroupOf(l dlq.Letter) Group {
	return Group{Provider: l.Provider, Class: l.Class, Error: Kind(l)}
}

// Number names a group: 1000 to 999999, the same today and tomorrow, however
// many there are of it, so that it can be chosen in a later command.
func (g Group) Number() int {
	h := fnv.New32a()
	for _, part := range []string{g.Provider, string(g.Class), g.Error} {
		_, _ = h.Write([]byte(part + "\x00")) // cannot fail
	}
	return 1000 + int(h.Sum32()%999_000)
}

const kindKept = 80 // characters

// Kind is what a letter's error has in common with others of its kind: the
// code it would be answered with or the HTTP status, and the text with its
// numbers left out.
func Kind(l dlq.Letter) string {
	var parts []string
	if l.Code != "" {
		parts = append(parts, string(l.Code))
	}
	if l.HTTPStatus != 0 {
		parts = append(parts, "HTTP "+strconv.Itoa(l.HTTPStatus))
	}
	if text := withoutNumbers(l.Error); text != "" {
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "(none)"
	}
	kind := []rune(strings.Join(parts, ": "))
	if len(kind) > kindKept {
		kind = append(kind[:kindKept-1], '…')
	}
	return string(kind)
}

// withoutNumbers writes # for every run of digits, so that errors that differ
// only in a time, a port or a count are one kind.
func withoutNumbers(s string) string {
	var b strings.Builder
	in := false
	for _, r := range s {
		digit := r >= '0' && r <= '9'
		switch {
		case !digit:
			b.WriteRune(r)
		case !in:
			b.WriteByte('#')
		}
		in = digit
	}
	return b.String()
}

// like reports whether a text matches a pattern, whatever the case.
func like(pattern, text string) bool {
	p, s := []rune(pattern), []rune(text)
	star, from := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || unicode.ToLower(p[i]) == unicode.ToLower(s[j])):
			i, j = i+1, j+1
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}
