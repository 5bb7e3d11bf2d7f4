package dlq_test

import (
	"reflect"
	"strings"
	"testing"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// FuzzDecodeLetter: a letter that is understood can be written, and is
// understood as the same; whatever is not becomes one that goes to a person,
// with the request's own bytes.
func FuzzDecodeLetter(f *testing.F) {
	spent := dlqtest.FailedOnce(2)
	spent.Failures, spent.Error, spent.Code = 4, "caf\u00e9 \u2028 closed", fetchworker.CodeRejected
	for _, l := range []dlq.Letter{dlqtest.FailedOnce(1), dlqtest.Fresh(1, wire.ClassQuota), spent} {
		for _, m := range []*nats.Msg{l.DeadLetter(), l.Replayed(), l.ReviewItem()} {
			var lines []string
			for name, values := range m.Header {
				for _, value := range values {
					lines = append(lines, name+": "+value)
				}
			}
			f.Add(m.Subject, strings.Join(lines, "\n"), m.Data)
		}
	}
	f.Fuzz(func(t *testing.T, subject, header string, body []byte) {
		h := nats.Header{}
		for line := range strings.SplitSeq(header, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				h[name] = append(h[name], value)
			}
		}
		l, err := dlq.Decode(subject, h, body)
		if err != nil {
			read := dlq.Read(subject, h, body)
			if read.Class != wire.ClassPermanent || read.Generation < 1 || string(read.Body) != string(body) {
				t.Fatalf("%q: %+v", header, read)
			}
			l = read
		}
		if l.ID == "" || !l.Lane.Valid() {
			return // of a subject under which no letter lies
		}
		m := l.DeadLetter()
		again, err := dlq.Decode(m.Subject, m.Header, m.Data)
		if err != nil {
			t.Fatalf("%v cannot be read again: %v", m.Header, err)
		}
		if next := again.DeadLetter(); !reflect.DeepEqual(next.Header, m.Header) || next.Subject != m.Subject || string(next.Data) != string(body) {
			t.Fatalf("%s %v\nbecame\n%s %v", m.Subject, m.Header, next.Subject, next.Header)
		}
	})
}
