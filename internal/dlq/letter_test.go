package dlq_test

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// A letter remembers its last attempts, as many as it may and never one more,
// the newest last.
func TestALetterRemembersItsLastAttempts(t *testing.T) {
	var l dlq.Letter
	for n := 1; n <= 3*dlq.HistoryKept; n++ {
		l.Record(dlq.Attempt{HTTPStatus: n})
		if kept := min(n, dlq.HistoryKept); len(l.History) != kept || l.History[kept-1].HTTPStatus != n || l.History[0].HTTPStatus != n-kept+1 {
			t.Fatalf("after %d: %+v", n, l.History)
		}
	}
}

// An error's text is cut at a character, wherever the cut falls, and is one line.
func TestAnErrorIsCutAtACharacter(t *testing.T) {
	for before := range 8 {
		for _, letter := range []string{"a", "é", "語", "🙂", "\n"} {
			text := dlq.OneLine(strings.Repeat("x", before) + strings.Repeat(letter, 600))
			if !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError) || strings.Contains(text, "\n") {
				t.Fatalf("%d before %q: %q", before, letter, text)
			}
			if n := len(strings.TrimSuffix(text, "…")); n > 500 || n < 497 {
				t.Fatalf("%d before %q: %d bytes", before, letter, n)
			}
		}
	}
	if text := dlq.OneLine(strings.Repeat("x", 500)); text != strings.Repeat("x", 500) {
		t.Errorf("what is not too long is cut: %q", text)
	}
}

// However long the error of an attempt is, its letter can be stored.
func TestALettersErrorIsShort(t *testing.T) {
	l := dlqtest.FailedOnce(1)
	l.Error = "HTTP 503\n" + strings.Repeat("é", 1<<20)
	l.Record(dlq.Attempt{At: l.FailedAt, Class: l.Class, Error: l.Error})
	for _, m := range []*nats.Msg{l.DeadLetter(), l.Replayed(), l.ReviewItem()} {
		if said := m.Header.Get(wire.HeaderError); len(said) > 520 || !strings.HasPrefix(said, "HTTP 503 éé") || m.Size() > 5000 {
			t.Errorf("%s: %d bytes, %d of them its error: %.20q", m.Subject, m.Size(), len(said), said)
		}
	}
}

// A header is ASCII, and a person reads the error of the last attempt as it was:
// that one's, and no other's.
func TestAnErrorIsReadAsItWas(t *testing.T) {
	for name, c := range map[string]struct {
		before []string
		last   string
	}{
		"one":                     {nil, "délai dépassé"},
		"another before it":       {[]string{"HTTP 503"}, "délai dépassé"},
		"one that looks the same": {[]string{"délai dêpassé"}, "délai dépassé"},
		"plain":                   {[]string{"délai dépassé"}, "HTTP 503"},
	} {
		l := dlqtest.FailedOnce(1)
		for _, e := range append(c.before, c.last) {
			l.Error = e
			l.Record(dlq.Attempt{At: l.FailedAt, Class: l.Class, Error: e})
		}
		m := l.DeadLetter()
		for key, values := range m.Header { // as they are stored
			for i := range values {
				m.Header[key][i] = record.HeaderValue(values[i])
			}
		}
		if back, err := dlq.Decode(m.Subject, m.Header, m.Data); err != nil || back.Error != c.last {
			t.Errorf("%s: %q, %v", name, back.Error, err)
		}
	}
}

// Of an agent's headers a trace is carried along if it is one, and its state if
// it is no longer than everybody has to carry.
func TestATraceIsCarriedIfItIsOne(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for name, c := range map[string]struct{ parent, state, wantParent, wantState string }{
		"a trace":                   {parent, "a=b", parent, "a=b"},
		"the longest state":         {parent, strings.Repeat("x", 512), parent, strings.Repeat("x", 512)},
		"a longer one":              {parent, strings.Repeat("x", 513), parent, ""},
		"a state without its trace": {"", "a=b", "", ""},
		"of another version":        {parent + "-00", "a=b", "", ""},
		"no trace":                  {strings.Repeat("z", 55), "a=b", "", ""},
	} {
		h := nats.Header{}
		h.Set(wire.HeaderTraceparent, c.parent)
		h.Set(wire.HeaderTracestate, c.state)
		if p, s := dlq.TraceOf(h); p != c.wantParent || s != c.wantState {
			t.Errorf("%s: %q %q", name, p, s)
		}
	}
}

// Of a letter with a header that cannot be read the others are read: whichever
// it is, nothing else is lost, and a person sees the letter.
func TestOfABrokenLetterTheRestIsKept(t *testing.T) {
	l := dlqtest.FailedOnce(1)
	l.Deadline, l.FirstFailedAt, l.MaxLife, l.Allowed = l.FailedAt.Add(time.Hour), l.FailedAt, time.Hour, 4
	l.Worker, l.Code, l.Generation, l.Calls, l.HTTPStatus = "w", fetchworker.CodeRejected, 2, 7, 503
	l.Record(dlq.Attempt{At: l.FailedAt, Class: l.Class, HTTPStatus: 503, Error: l.Error})
	whole := l.DeadLetter()
	fields := func(l dlq.Letter) map[string]string {
		return map[string]string{
			wire.HeaderCalls: strconv.Itoa(l.Calls), wire.HeaderFailures: strconv.Itoa(l.Failures), wire.HeaderHTTPStatus: strconv.Itoa(l.HTTPStatus),
			wire.HeaderAllowed: strconv.Itoa(l.Allowed), wire.HeaderGeneration: strconv.Itoa(l.Generation), wire.HeaderMaxLife: l.MaxLife.String(),
			wire.HeaderRequestedAt: l.RequestedAt.UTC().Format(time.RFC3339Nano), wire.HeaderDeadline: l.Deadline.UTC().Format(time.RFC3339Nano),
			wire.HeaderFirstFailed: l.FirstFailedAt.UTC().Format(time.RFC3339Nano), wire.HeaderHistory: strconv.Itoa(len(l.History)),
			wire.HeaderWorker: l.Worker, wire.HeaderFailedAt: l.FailedAt.UTC().Format(time.RFC3339Nano), wire.HeaderNotBefore: l.NotBefore.UTC().Format(time.RFC3339Nano),
		}
	}
	want := fields(dlq.Read(whole.Subject, whole.Header, whole.Data))
	for name := range want {
		if name == wire.HeaderWorker {
			continue // any text is one
		}
		m := l.DeadLetter()
		m.Header.Set(name, "broken")
		read := dlq.Read(m.Subject, m.Header, m.Data)
		if read.Generation < 1 {
			t.Errorf("%s broken: of generation %d", name, read.Generation)
		}
		if read.Class != wire.ClassPermanent || string(read.Body) != string(l.Body) || read.Identity != l.Identity || read.Lane != l.Lane {
			t.Errorf("%s broken: %+v", name, read)
		}
		for other, value := range fields(read) {
			if other != name && value != want[other] {
				t.Errorf("%s broken: %s is %q, and was %q", name, other, value, want[other])
			}
		}
	}
}
