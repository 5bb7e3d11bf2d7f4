package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// wireDir holds what the first version wrote: a file a stream, a message a
// line. The times in it are those of recordedAt.
const wireDir = "../testdata/wire"

// recorded is a stored message in a file.
type recorded struct {
	Subject string      `json:"subject"`
	Header  nats.Header `json:"header,omitempty"`
	Data    string      `json:"data,omitempty"` // text
	Gzip    []byte      `json:"gzip,omitempty"` // anything else, and what is large
}

const largeText = 4 << 10

// recordStreams writes down all that a server's streams hold.
func recordStreams(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	ctx := t.Context()
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		s, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		lines := json.NewEncoder(&file)
		lines.SetEscapeHTML(false)
		for sequence := info.State.FirstSeq; sequence <= info.State.LastSeq; sequence++ {
			m, err := s.GetMsg(ctx, sequence)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			r := recorded{Subject: m.Subject, Header: m.Header}
			for _, key := range []string{"Nats-Sequence", "Nats-Stream", "Nats-Subject", "Nats-Time-Stamp", "Nats-Num-Pending"} {
				r.Header.Del(key) // of the get
			}
			if utf8.Valid(m.Data) && len(m.Data) < largeText {
				r.Data = string(m.Data)
			} else {
				var packed bytes.Buffer
				w := gzip.NewWriter(&packed)
				_, err := w.Write(m.Data)
				if err := errors.Join(err, w.Close()); err != nil {
					t.Fatal(err)
				}
				r.Gzip = packed.Bytes()
			}
			if err := lines.Encode(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(wireDir, info.Config.Name+".ndjson"), file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := streams.Err(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(wireDir, "recorded_at"), []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// recordings reads what was written down of a stream, as if it had been
// written just now.
func recordings(t *testing.T, stream string) []*nats.Msg {
	t.Helper()
	at, err := os.ReadFile(filepath.Join(wireDir, "recorded_at"))
	if err != nil {
		t.Fatal(err)
	}
	then, err := time.Parse(time.RFC3339, strings.TrimSpace(string(at)))
	if err != nil {
		t.Fatal(err)
	}
	since := time.Since(then)
	file, err := os.Open(filepath.Join(wireDir, stream+".ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var all []*nats.Msg
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		m := &nats.Msg{Subject: r.Subject, Header: nats.Header{}, Data: []byte(shifted(r.Data, since))}
		if r.Gzip != nil {
			unpacked, err := gzip.NewReader(bytes.NewReader(r.Gzip))
			if err != nil {
				t.Fatal(err)
			}
			if m.Data, err = io.ReadAll(unpacked); err != nil {
				t.Fatal(err)
			}
		}
		for key, values := range r.Header {
			// What only the write itself was about.
			if !strings.HasPrefix(key, "Nats-Expected-") && key != nats.MsgIdHdr {
				for _, value := range values {
					m.Header.Add(key, shifted(value, since))
				}
			}
		}
		all = append(all, m)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

var moment = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// shifted moves every moment in a text.
func shifted(text string, by time.Duration) string {
	return moment.ReplaceAllStringFunc(text, func(s string) string {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil || at.Year() < 2026 {
			return s
		}
		return at.Add(by).Format(time.RFC3339Nano)
	})
}

// play stores what was recorded of a stream on a server of this version.
func play(t *testing.T, js jetstream.JetStream, stream string) []*nats.Msg {
	t.Helper()
	all := recordings(t, stream)
	for _, m := range all {
		sent := &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
		tokens := strings.Split(m.Subject, ".")
		switch tokens[1] {
		case "request": // the stream puts the shard in
			sent.Subject = strings.Join(slices.Delete(tokens, 4, 5), ".")
		case "result":
			tokens[1] = "put"
			sent.Subject = strings.Join(tokens, ".")
		case "budget": // a counter
			var sum struct {
				Value string `json:"val"`
			}
			if err := json.Unmarshal(m.Data, &sum); err != nil {
				t.Fatal(err)
			}
			sent.Header, sent.Data = nats.Header{"Nats-Incr": {"+" + sum.Value}}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := js.PublishMsg(ctx, sent); err != nil {
			t.Errorf("%s: %v", sent.Subject, err)
		}
		cancel()
	}
	return all
}

// TestWhatTheFirstVersionWroteIsReadToday plays every kind of message that the
// first version has left on a server to the programs of this one: nothing of it
// is lost, called again or passed over.
func TestWhatTheFirstVersionWroteIsReadToday(t *testing.T) {
	begin(t)
	f := newFleet(t, well(0))
	for name := range map[string]bool{"POLYGON": true, "FRED": true} {
		f.env[name+"_API_KEY"], f.env[name+"_BASE_URL"] = aKey, f.upstream.URL()
	}
	f.env["FMP_BANDWIDTH_LIMIT_GB"], f.env["USER"] = "1", "ann"
	delete(f.env, "FMP_REQUESTS_PER_MINUTE")
	stored := map[string][]*nats.Msg{}
	for _, stream := range []string{
		"KV_fetch_providers", "KV_fetch_cache", "FETCH_BUDGET", "FETCH_BODIES", "FETCH_RESULTS",
		"FETCH_AUDIT", "FETCH_EVENTS", "FETCH_REVIEW", "FETCH_DLQ", "FETCH_REPLAY", "FETCH_REQUESTS",
	} {
		if stored[stream] = play(t, f.js, stream); len(stored[stream]) == 0 {
			t.Errorf("nothing is recorded of %s", stream)
		}
	}
	operate := func(args ...string) string {
		t.Helper()
		p := launch(t, "replayer "+args[0], program("replayer"), f.env, args...)
		if code := p.ended(t, time.Minute); code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, p.log.tail(10))
		}
		return p.log.tail(1000)
	}
	says := func(text string, words ...string) {
		t.Helper()
		for _, word := range words {
			if !strings.Contains(text, word) {
				t.Errorf("%q is missing in\n%s", word, text)
			}
		}
	}

	// What it left standing is obeyed and shown before anybody of today works.
	says(operate("status"), "maintenance", "60/min", "3 different requests failed in a row")
	says(operate("audit", "--since", "24h"), "somebody else needs them", "no such thing", "try again", "to release one")
	says(operate("show", "alice/letter"), "status 500: boom", "BROKEN-letter")
	says(operate("review", "list"), "review")
	f.replayer()
	f.worker()
	time.Sleep(2 * time.Second)
	for _, c := range f.upstream.Calls() {
		if strings.Contains(c.Target, "/quote/") {
			t.Errorf("a provider that is paused was called: %s", c.Target)
		}
	}

	alice, bob := "alice", "bob"
	identity := func(provider, operation, agent, id string) fetchworker.Identity {
		return fetchworker.Identity{Provider: provider, Operation: operation, Agent: agent, ID: id}
	}
	for _, provider := range []string{"fmp", "polygon", "fred"} {
		operate("resume", provider, "--reason", "played")
	}
	operate("review", "requeue", "alice/review", "--yes", "--reason", "mended")
	operate("replay", "--all", "--yes", "--reason", "now")
	for id, calls := range map[fetchworker.Identity]int{
		identity("fmp", "quote", alice, "waiting"):                1,
		identity("fmp", "quote", alice, "parked"):                 1,
		identity("fmp", "quote", alice, "letter"):                 2,
		identity("fmp", "quote", alice, "replayed"):               2,
		identity("fmp", "quote", alice, "requeued"):               6,
		identity("fmp", "quote", alice, "review"):                 5,
		identity("polygon", "previous_close", alice, "circuit"):   1,
		identity("polygon", "previous_close", alice, "down-0"):    2,
		identity("polygon", "previous_close", alice, "down-1"):    2,
		identity("polygon", "previous_close", alice, "down-2"):    2,
		identity("polygon", "previous_close", bob, "waiting-too"): 1,
		identity("fred", "series", bob, "busy"):                   2,
	} {
		f.accepted = append(f.accepted, id)
		if a := f.final(id, 30*time.Second); a.Status != fetchworker.StatusOK || a.Calls != calls {
			t.Errorf("%s: %s, %d calls", id, dlqtest.Describe(a), a.Calls)
		}
	}

	// What is answered stays so, and is given again for nothing.
	called := len(f.upstream.Calls())
	for id, want := range map[fetchworker.Identity]string{
		identity("fmp", "quote", alice, "ok"): "", identity("fmp", "quote", alice, "none"): "",
		identity("fmp", "quote", alice, "large"): "", identity("fmp", "quote", alice, "discarded"): "discarded",
		identity("fmp", "quote", bob, "bad"): "invalid_request",
	} {
		f.accepted = append(f.accepted, id)
		a := f.final(id, time.Second)
		if a.Problem != nil && string(a.Problem.Code()) != want || a.Problem == nil && want != "" {
			t.Errorf("%s: %s", id, dlqtest.Describe(a))
		}
		if id.ID == "large" && len(a.Body) < largeBody {
			t.Errorf("the large body has %d bytes", len(a.Body))
		}
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: id.Agent, MaxAge: new(fetchworker.Duration)}
		if err := f.ask(r, id.ID); err != nil {
			t.Error(err)
		}
	}
	// So is what lies in the cache.
	young := fetchworker.Duration(20 * 365 * 24 * time.Hour) // what is packed keeps the times that it was recorded with
	cached := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: "carol", ID: "cached", Params: params("fmp", "AAPL"), MaxAge: &young}
	carol, err := f.agent("carol")
	if err != nil {
		t.Fatal(err)
	}
	if a, err := carol.Fetch(t.Context(), cached); err != nil || a.Source != fetchworker.SourceCache {
		t.Errorf("%s, %v", dlqtest.Describe(a), err)
	}
	time.Sleep(time.Second)
	if n := len(f.upstream.Calls()) - called; n != 0 {
		t.Errorf("%d calls for what was answered", n)
	}
	f.accepted = append(f.accepted, cached.Identity())
	until(t, 30*time.Second, "nothing waits", func() bool { return f.nothingWaits(wire.StreamReview) })
	dlqtest.Check{Accepted: f.accepted, Retries: 3, Empty: true}.Run(t, f.js)
}
