package fetchworker_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// headerOf reads lines of "Name: value", as a fuzzer writes headers.
func headerOf(text string) nats.Header {
	h := nats.Header{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h[name] = append(h[name], value)
		}
	}
	return h
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// FuzzDecodeRequest: a request that is understood can be written, and is
// understood as the same; one that is not names its mistake.
func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"id":"q-1","params":{"symbol":"AAPL"},"reply_to":"fetch.reply.alice.x","ttl":"10m","max_age":"30s","max_stale":"1h","use":["export"]}`,
		`{"deadline":"2026-11-30T00:00:00Z"}`, `{"ttl":"10m","deadline":"2026-11-30T00:00:00Z"}`, `{"params":null}`, `{"id":"a","id":"b"}`,
		`{"max_age":"0s"}`, `{"max_age":-1}`, `{"use":[1]}`, `[]`, `null`, ``, `{"odd":1}`, `{"params":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := fetchworker.DecodeRequest(body)
		var wrong *fetchworker.RequestError
		if err != nil {
			if !errors.Is(err, fetchworker.ErrNotObject) && !errors.As(err, &wrong) {
				t.Fatalf("%q: %v", body, err)
			}
			if r.ID != "" && !fetchworker.ValidID(r.ID) {
				t.Fatalf("%q: id %q", body, r.ID)
			}
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("%q cannot be written: %v", body, err)
		}
		same, err := fetchworker.DecodeRequest(again)
		if err != nil {
			t.Fatalf("%q became %q: %v", body, again, err)
		}
		r.Deadline, same.Deadline = r.Deadline.UTC(), same.Deadline.UTC()
		if fetchworker.RequestDigest("o", r.Params) != fetchworker.RequestDigest("o", same.Params) {
			t.Fatalf("%q became %q: other parameters", body, again)
		}
		r.Params, same.Params = nil, nil
		if !reflect.DeepEqual(r, same) && (len(r.Use) != 0 || len(same.Use) != 0) {
			t.Fatalf("%q became %q: %+v, %+v", body, again, r, same)
		}
		r.Provider, r.Operation, r.Agent, r.Lane = "p", "o", "alice", fetchworker.LaneBatch
		if reply := r.Reply(); reply != "" && !strings.HasPrefix(reply, "fetch.reply.alice.") || strings.ContainsAny(reply, "*> \r\n\t") {
			t.Fatalf("replies to %q", reply)
		}
	})
}

// FuzzDecodeAnswer: an answer that is understood can be written in printable
// ASCII headers, and is understood as the same.
func FuzzDecodeAnswer(f *testing.F) {
	const subject = "fetch.result.fmp.quote.alice.q-1"
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	failure := fetchworker.Failure(id, fetchworker.CodeNotFound, "no such symbol")
	wait := fetchworker.Waiting(id, fetchworker.ReasonPaused, "maintenance", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for _, a := range []fetchworker.Answer{
		{Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: 1, Body: []byte("[1]"), Source: fetchworker.SourceOrigin, FetchedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Next: json.RawMessage(`{"page":2}`)},
		{Identity: id, Status: fetchworker.StatusFailed, Final: true, Review: true, Generation: 2, Problem: &failure},
		{Identity: id, Status: fetchworker.StatusWaiting, Generation: 1, Problem: &wait},
		{Identity: id, Status: fetchworker.StatusStale, Generation: 1, Claim: &fetchworker.Claim{Prefix: "fetch.body.alice.00", Parts: 3, Bytes: 1 << 20, SHA256: "00"}},
	} {
		var lines []string
		m := a.Encode()
		for name, values := range m.Header {
			for _, value := range values {
				lines = append(lines, name+": "+value)
			}
		}
		f.Add(subject, strings.Join(lines, "\n"), m.Data)
	}
	f.Fuzz(func(t *testing.T, subject, header string, body []byte) {
		a, err := fetchworker.DecodeAnswer(subject, headerOf(header), body)
		if err != nil {
			return
		}
		if a.Time.IsZero() {
			a.Time = time.Unix(1, 0)
		}
		m := a.Encode()
		for name, values := range m.Header {
			for _, value := range values {
				if !ascii(value) {
					t.Fatalf("%s: %q", name, value)
				}
			}
		}
		b, err := fetchworker.DecodeAnswer(subject, m.Header, m.Data)
		if err != nil {
			t.Fatalf("%q %q cannot be read again: %v", header, body, err)
		}
		if a.Status != b.Status || a.Final != b.Final || a.Review != b.Review || a.Generation != b.Generation || a.Calls != b.Calls || a.Failures != b.Failures || a.Rank() != b.Rank() || string(a.Body) != string(b.Body) || (a.Claim == nil) != (b.Claim == nil) {
			t.Fatalf("%+v became %+v", a, b)
		}
		if again := b.Encode(); !reflect.DeepEqual(again.Header, m.Header) || string(again.Data) != string(m.Data) {
			t.Fatalf("%v became %v", m.Header, again.Header)
		}
	})
}
