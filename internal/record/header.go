package record

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/nats-io/nats.go"
)

// ascii makes every value of a message's headers printable ASCII: some clients
// read no others. All that is stored or sent through a log passes here.
func ascii(h nats.Header) {
	for key, values := range h {
		for i, value := range values {
			if !plain(value) {
				// The slice may be another message's too.
				values = append([]string(nil), values...)
				values[i] = HeaderValue(value)
				h[key] = values
			}
		}
	}
}

func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// HeaderValue is a text as a header holds it, in printable ASCII. JSON stays the
// same JSON, escaped; of any other text typographic signs become their plain
// forms, and what has none a question mark.
func HeaderValue(s string) string {
	if plain(s) {
		return s
	}
	isJSON := s[0] == '{' || s[0] == '[' || s[0] == '"'
	isJSON = isJSON && json.Valid([]byte(s))
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	for _, r := range s {
		switch {
		case ' ' <= r && r <= '~':
			b.WriteRune(r)
		case r < ' ': // between the values of JSON, and a line's end in a text
			b.WriteByte(' ')
		case isJSON:
			escape(&b, r)
		default:
			b.WriteString(typed(r))
		}
	}
	return b.String()
}

func escape(b *strings.Builder, r rune) {
	for _, unit := range utf16.Encode([]rune{r}) {
		const digits = 4
		hex := strconv.FormatUint(uint64(unit), 16)
		b.WriteString(`\u` + strings.Repeat("0", digits-len(hex)) + hex)
	}
}

// typed is a sign as it was typed before a program made it look better.
func typed(r rune) string {
	switch r {
	case '‘', '’', '‚', '′':
		return "'"
	case '“', '”', '„', '″', '«', '»':
		return `"`
	case '‐', '‑', '‒', '–', '—', '−':
		return "-"
	case '…':
		return "..."
	case '•', '·':
		return "*"
	case '\u00a0', '\u2007', '\u2009', '\u202f', '\u007f':
		return " "
	case '\u00ad', '\u200b', '\ufeff':
		return ""
	default:
		return "?"
	}
}
