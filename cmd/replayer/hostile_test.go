package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// FuzzWhatOthersWrote stores any bytes as subjects, headers and bodies of every
// stream that is read here, and runs a worker, the sweeper, the replayer and
// every command over them: nothing panics, nothing stops, and nothing that a
// terminal obeys comes out.
func FuzzWhatOthersWrote(f *testing.F) {
	for _, odd := range []string{
		"quote", "\x1b]52;c;aGk=\x07", "\x1b[2J", "\xff\xfe", "\u009b31m", "\u202e", "\u2028line", "a\nb\rc", "\x7f", `"\`, "*", ">",
		"${jndi}", "=HYPERLINK(1)", strings.Repeat("x", 500), `{"id":"q-1"}`, `[{"at":"x"}]`, "{", "9999999999999999999", "2026-11-24T10:00:00Z", "-1",
	} {
		f.Add(odd, odd, odd, []byte(odd))
	}
	b := brokertest.StartIn(f, f.TempDir(), "127.0.0.1:0")
	f.Cleanup(b.Stop)
	h := newHostile(f, b)
	f.Fuzz(func(t *testing.T, token, header, text string, body []byte) { h.try(t, token, header, text, body) })
}

// hostile is a server with a worker, a sweeper and a replayer over it.
type hostile struct {
	*brokertest.Broker
	log   *record.Log
	tries int
}

func newHostile(f *testing.F, b *brokertest.Broker) *hostile {
	f.Helper()
	ctx, stop := context.WithCancel(context.Background())
	board, err := fleet.Watch(ctx, b.JS, b.KV)
	if err != nil {
		f.Fatal(err)
	}
	log := record.New(b.JS, nil)
	sweeper := sweep.New(b.JS, log, board, sweep.Config{Known: func(string) bool { return false }, MaxLife: time.Hour, Logger: zap.NewNop()})
	replayer := dlq.NewReplayer(b.JS, log, board, dlq.Config{
		Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer, Retries: 3, MaxLife: time.Hour, Logger: zap.NewNop(),
	})
	endWorker := hostileWorker(f, b)
	ended := make(chan error, 2)
	go func() { ended <- sweeper.Run(ctx) }()
	go func() { ended <- replayer.Run(ctx) }()
	f.Cleanup(func() {
		if err := endWorker(); err != nil {
			f.Error(err)
		}
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				f.Error(err)
			}
		}
		board.Close()
	})
	return &hostile{Broker: b, log: log}
}

// word is a text as a subject's token can be: without spaces and dots.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '.' || r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == '\f' || r == 0 {
			return '_'
		}
		return r
	}, s)
	return "o" + s[:min(len(s), 300)]
}

func (h *hostile) try(t *testing.T, token, header, text string, body []byte) {
	token = word(token)
	line := strings.NewReplacer("\r", " ", "\n", " ").Replace(header) // as the client library lets it through
	put := func(subject string, keys ...string) {
		m := nats.NewMsg(subject)
		m.Data = body
		for _, key := range keys {
			m.Header.Set(key, line)
		}
		_, _ = h.JS.PublishMsg(t.Context(), m) // what the server refuses is no matter
	}
	letter := []string{
		wire.HeaderGeneration, wire.HeaderCalls, wire.HeaderFailures, wire.HeaderErrorClass, wire.HeaderError,
		wire.HeaderErrorCode, wire.HeaderRequestedAt, wire.HeaderDeadline, wire.HeaderFailedAt, wire.HeaderNotBefore,
		wire.HeaderHistory, wire.HeaderLane, wire.HeaderWorker, wire.HeaderTraceparent, wire.HeaderTracestate,
	}
	for i := range letter { // each alone, so that one unreadable does not hide the others
		put("fetch.dlq."+token+".batch.quote.alice.h-"+string(rune('a'+i)), letter[i])
		put("fetch.review.fmp."+token+".alice.h-"+string(rune('a'+i)), letter[i])
	}
	put("fetch.dlq.fmp.batch."+token+".alice.q-1", letter...)
	put("fetch.dlq.fmp." + token + ".quote.alice.q-2")
	put("fetch.replay."+token+".batch.quote.alice.q-1", letter...)
	put("fetch.review."+token+".quote.alice.q-1", letter...)
	put("fetch.request."+token+".batch.quote.alice", wire.HeaderTraceparent, nats.MsgIdHdr)
	put("fetch.request.fmp." + token + ".quote.alice")
	put("fetch.request.fmp.batch.quote.alice", wire.HeaderTraceparent, wire.HeaderTracestate, nats.MsgIdHdr)
	put("fetch.request.fmp.batch."+token+".alice", wire.HeaderTraceparent)
	put("fetch.request.fmp.interactive.quote."+token, wire.HeaderTracestate)
	put("fetch.replay.fmp.batch.quote.alice.r-1", letter...)
	for i := range letter {
		put("fetch.replay.fmp.batch.quote.alice.r-"+string(rune('a'+i)), letter[i])
	}
	whole := body
	for _, key := range []string{"id", "symbol", "reply_to", "ttl", "deadline", "max_age", "use", "path"} {
		quoted, _ := json.Marshal(text) // a text can be written
		body = fmt.Appendf(nil, `{%q:%s,"params":{%q:%s}}`, key, quoted, key, quoted)
		put("fetch.request.fmp.batch.quote.alice")
		body = fmt.Appendf(nil, `{%q:"%s","params":{%q:"%s"}}`, key, text, key, text)
		put("fetch.request.fmp.batch.get.alice")
	}
	body = whole
	put("fetch.request.nobody.batch." + token + ".alice")
	put("fetch.put.fmp.quote."+token+".q-1", wire.HeaderStatus, wire.HeaderFinal, wire.HeaderGeneration)
	put("fetch.event.budget.fmp")
	put("fetch.audit.replay." + token)
	put("fetch.audit.requeue.fmp")
	act := operate.Act{Action: operate.ActDiscard, Provider: "fmp", Operation: text, Agent: header, ID: text, Error: text}
	_ = operate.RecordAct(t.Context(), h.JS, operate.Signature{By: header, NATSUser: text, Reason: text, Run: "r"}, act)

	for _, args := range [][]string{
		{"status"},
		{"list"},
		{"review", "list"},
		{"audit"},
		{"show", "q-1"},
		{"show", "h-e"},
		{"review", "show", "q-1"},
		{"review", "export"},
		{"review", "export", "--format", "csv"},
		{"replay", "--all", "--dry-run"},
		{"review", "discard", "--all", "--dry-run", "--reason", "x"},
		{"review", "requeue", "--all", "--yes", "--limit", "5", "--reason", text + "x"},
		{"replay", header},
		{"list", "--provider", text},
		{"nonsense" + text},
	} {
		for _, asJSON := range []bool{false, true} {
			h.command(t, args, asJSON)
		}
	}
	if h.tries++; h.tries%10 == 1 { // a sweep takes a second or two
		h.stillWorks(t)
	}
}

// command runs one and judges what it says.
func (h *hostile) command(t *testing.T, args []string, asJSON bool) {
	t.Helper()
	if asJSON {
		args = append(slices.Clone(args), "--json")
	}
	if slices.ContainsFunc(args, func(a string) bool { return strings.ContainsRune(a, 0) }) {
		return // no shell can pass it
	}
	var out, errs bytes.Buffer
	env := func(name string) string { return map[string]string{"NATS_URL": h.Server.URL(), "USER": "ann"}[name] }
	code := run(t.Context(), args, env, strings.NewReader(""), &out, &errs)
	if code < exitDone || code > exitNothing {
		t.Errorf("%q: exit code %d", args, code)
	}
	csv := slices.Contains(args, "csv")
	for _, text := range []string{out.String(), errs.String()} {
		if i := strings.IndexFunc(text, obeyed); i >= 0 && !csv || !utf8.ValidString(text) {
			t.Errorf("%q: a terminal would obey %q", args, text[max(i-20, 0):min(i+20, len(text))])
		}
	}
	if asJSON && !csv && !slices.Contains(args, "--help") {
		for line := range strings.Lines(out.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%q: no JSON: %q", args, line)
			}
		}
	}
}

// obeyed reports what a terminal does something with instead of showing it.
func obeyed(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029')
}

// stillWorks looks whether worker, sweeper and replayer still do what they are
// for.
func (h *hostile) stillWorks(t *testing.T) {
	t.Helper()
	id := fetchworker.Identity{Provider: "nobody", Operation: "quote", Agent: "bob", ID: fetchworker.NewID()}
	if _, err := h.JS.Publish(t.Context(), fetchworker.RequestSubject(id.Provider, "batch", id.Operation, id.Agent), []byte(`{"id":"`+id.ID+`"}`)); err != nil {
		t.Fatal(err)
	}
	late := testLetter(fetchworker.NewID())
	late.Deadline = time.Now().Add(-time.Second)
	late.Failures = 1
	if err := dlq.Put(t.Context(), h.log, late); err != nil {
		t.Fatal(err)
	}
	asked := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "carol", ID: fetchworker.NewID()}
	if _, err := h.JS.Publish(t.Context(), fetchworker.RequestSubject("fmp", "interactive", "quote", "carol"), []byte(`{"id":"`+asked.ID+`","params":{"symbol":"AAPL"}}`)); err != nil {
		t.Fatal(err)
	}
	for _, i := range []fetchworker.Identity{id, late.Identity, asked} {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := h.log.Last(t.Context(), fetchworker.StreamResults, fetchworker.ResultSubject(i)); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not answered", i)
			}
		}
	}
}
