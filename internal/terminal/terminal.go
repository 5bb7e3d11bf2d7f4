// Package terminal is the one way from us to a person's terminal. Names, ids,
// reasons and error texts come from agents, providers and colleagues; nothing
// of them may command the terminal, hide a line or pretend to be another.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Is reports whether a stream is a terminal.
func Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Width is a terminal's width in columns; 0 if the stream is none.
func Width(stream any) int {
	f, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// Visible writes a text as one line that shows what it holds: controls, line
// and paragraph separators, bidi marks and other invisible characters, and
// bytes that are no UTF-8, all as Go writes them.
func Visible(s string) string { return escape(s, func(rune) bool { return false }) }

// escape makes visible what a terminal would not show, but what is let through.
func escape(s string, let func(rune) bool) string {
	if plain(s, let) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case let(r) || shown(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func plain(s string, let func(rune) bool) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !let(r) && !shown(r) {
			return false
		}
	}
	return true
}

// shown reports whether a terminal shows a character, and in its place.
func shown(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r) && r != '\u3164' && r != '\uffa0' && r != '\u115f' && r != '\u1160'
}

// Printable lets the lines and tabs of a text through, and makes everything
// else visible that is not.
func Printable(s string) string {
	return escape(s, func(r rune) bool { return r == '\n' || r == '\t' })
}

// JSON writes as escapes what a JSON text may hold literally although a
// terminal would not show it. Such characters are inside strings only, where
// an escape means the same.
func JSON(text []byte) []byte {
	if plain(string(text), func(r rune) bool { return r == '\n' || r == '\t' || r == '\r' }) {
		return text
	}
	var b strings.Builder
	for _, r := range string(text) { // an encoder writes UTF-8 only
		switch {
		case r == '\n' || r == '\t' || r == '\r' || shown(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := split(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return []byte(b.String())
}

// split is a character as JSON's escapes need it, in two halves.
func split(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}

// Ours is a text of our own making that may hold what a terminal obeys.
type Ours string

// Printf writes a format of ours with arguments from anywhere: texts, errors
// and what describes itself become Visible, and cannot break the line.
func Printf(w io.Writer, format string, args ...any) error {
	if _, err := io.WriteString(w, Sprintf(format, args...)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Sprintf is Printf into a text.
func Sprintf(format string, args ...any) string {
	safe := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case Ours:
			safe[i] = string(v)
		case string:
			safe[i] = Visible(v)
		case []byte:
			safe[i] = Visible(string(v))
		case error:
			safe[i] = Visible(v.Error())
		case bool, int, int64, uint64, float64:
			safe[i] = v
		default:
			safe[i] = Visible(fmt.Sprint(v))
		}
	}
	return fmt.Sprintf(format, safe...)
}
