package terminal_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/quick"
	"time"
	"unicode/utf8"

	"fetchworker/internal/terminal"
)

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Millisecond: "1.5s", 10 * time.Second: "10s", 70 * time.Second: "1m10s", 10 * time.Minute: "10m",
		time.Hour: "1h", 61 * time.Minute: "1h1m", 20*time.Hour + 10*time.Minute: "20h10m", 49 * time.Hour: "2d1h",
	} {
		if got := terminal.Short(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// obeyed are characters that a terminal does something with instead of showing
// them.
func obeyed(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || strings.ContainsRune("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2028\u2029\u2066\u2067\u2068\u2069\ufeff", r)
}

func TestATerminalShowsWhatOthersWroteAndDoesNotObeyIt(t *testing.T) {
	for text, want := range map[string]string{
		"plain, é, 東京, ✓":        "plain, é, 東京, ✓",
		"\x1b]52;c;aGk=\x07":     `\x1b]52;c;aGk=\x07`,
		"\x1b[2J":                `\x1b[2J`,
		"\u009b31m":              `\u009b31m`,
		"a\u202eb":               `a\u202eb`,
		"one\ntwo\tthree\rfour":  `one\ntwo\tthree\x0dfour`,
		"line\u2028para\u2029":   `line\u2028para\u2029`,
		"no UTF-8 \xff\xfe":      `no UTF-8 \xff\xfe`,
		"the replacement \ufffd": "the replacement \ufffd",
		"tag \U000e0041":         `tag \U000e0041`,
		"zero\u200bwidth":        `zero\u200bwidth`,
	} {
		if got := terminal.Visible(text); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	if got := terminal.Sprintf("%s %v %d%s\n", "a\nb", errors.New("c\x1bd"), 7, terminal.Ours("\x1b[0m")); got != `a\nb c\x1bd 7`+"\x1b[0m\n" {
		t.Errorf("%q", got)
	}
}

func TestNothingObeyedEverComesThrough(t *testing.T) {
	holds := func(b []byte, s string) bool {
		for _, text := range []string{string(b), s} {
			if got := terminal.Visible(text); strings.ContainsFunc(got, obeyed) || strings.ContainsAny(got, "\n\t") || !utf8.ValidString(got) {
				t.Logf("%q: %q", text, got)
				return false
			}
			if got := terminal.Printable(text); strings.ContainsFunc(got, obeyed) || !utf8.ValidString(got) {
				t.Logf("%q: %q", text, got)
				return false
			}
		}
		// JSON says the same, with nothing in it that a terminal obeys.
		text, err := json.Marshal(s)
		if err != nil {
			return false
		}
		var back string
		escaped := terminal.JSON(text)
		if err := json.Unmarshal(escaped, &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") || strings.ContainsFunc(string(escaped), obeyed) {
			t.Logf("%q: %s, %v", s, escaped, err)
			return false
		}
		return true
	}
	if err := quick.Check(holds, &quick.Config{MaxCount: 3000}); err != nil {
		t.Error(err)
	}
}

func TestAMomentOfAnotherDaySaysWhich(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	if got := terminal.Clock(now.Add(time.Hour), now); got != "13:00:00Z" {
		t.Error(got)
	}
	if got := terminal.Clock(now.Add(48*time.Hour), now); got != "2026-11-26 12:00:00Z" {
		t.Error(got)
	}
}
