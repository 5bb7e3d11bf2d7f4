package fetch_test

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

var update = flag.Bool("update", false, "write testdata/ends.txt anew")

// TestEveryEndWordForWord brings requests to each of their ends and writes down
// all that anybody is told of it: what the provider is asked, each header and the
// body of answers and letters, what is counted and logged. It is compared with
// testdata/ends.txt: whoever changes a word changes that (-update), and sees it.
func TestEveryEndWordForWord(t *testing.T) {
	var all strings.Builder
	for _, group := range ends() {
		t.Run(group.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				fmt.Fprintf(&all, "==== %s\n", group.name)
				group.run(r, &scribe{r: r, to: &all})
			})
		})
	}
	file := filepath.Join("testdata", "ends.txt")
	if *update {
		if err := os.WriteFile(file, []byte(all.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(all.String(), "\n"), strings.Split(string(golden), "\n")
	about := ""
	for i := range max(len(got), len(want)) {
		line, is := "", ""
		if i < len(want) {
			line = want[i]
		}
		if i < len(got) {
			is = got[i]
		}
		if strings.HasPrefix(line, "--") || strings.HasPrefix(line, "==") {
			about = line
		}
		if is != line {
			t.Fatalf("%s, line %d of %s:\n is   %s\n was  %s\n(with -update it is written anew)", about, i+1, file, is, line)
		}
	}
}

type endGroup struct {
	name string
	run  func(r *rig, s *scribe)
}

// scribe writes down what becomes of one request after another.
type scribe struct {
	r       *rig
	to      *strings.Builder
	mu      sync.Mutex
	said    []*nats.Msg
	asked   time.Time
	calls   int
	counted map[string]int64
	samples map[string]float64
	logged  int
}

// listen notes answers and letters from now on.
func (s *scribe) listen() (over func()) {
	s.r.t.Helper()
	var subs []*nats.Subscription
	for _, subject := range []string{"fetch.result.>", "fetch.dlq.>", "fetch.reply.>"} {
		sub, err := s.r.b.NC.Subscribe(subject, func(m *nats.Msg) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.said = append(s.said, m)
		})
		if err != nil {
			s.r.t.Fatal(err)
		}
		subs = append(subs, sub)
	}
	flush(s.r.b.NC)
	return func() {
		for _, sub := range subs {
			_ = sub.Unsubscribe()
		}
	}
}

// of begins to write about something.
func (s *scribe) of(name string) {
	fmt.Fprintf(s.to, "-- %s\n", name)
	s.mu.Lock()
	s.said = nil
	s.mu.Unlock()
	s.asked, s.calls, s.counted, s.samples, s.logged = time.Now(), len(s.r.upstream.Calls()), s.r.counted(), scrape(s.r.t, s.r.registry), len(s.r.logs.String())
}

var (
	moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	workers = regexp.MustCompile(`w-0x[0-9a-f]+`)
)

// plain is a text without what is another each time: moments are told from when
// the request was asked, those that are drawn by about what they are.
func (s *scribe) plain(text string) string {
	text = workers.ReplaceAllString(text, "WORKER")
	return moments.ReplaceAllStringFunc(text, func(at string) string {
		moment, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			return at
		}
		d := moment.Sub(s.asked).Round(time.Millisecond)
		if d <= time.Second/2 || d > 10*time.Minute && d < 20*time.Hour {
			return d.Round(time.Second / 2).String()
		}
		about := time.Second
		for d >= about*29/20 {
			about *= 2
		}
		return "about " + about.String()
	})
}

// kindOf is the second word of a message's subject.
func kindOf(m *nats.Msg) string { return strings.Split(m.Subject, ".")[1] }

// message is one without what its subject says.
func (s *scribe) message(m *nats.Msg) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		switch {
		case strings.HasPrefix(name, "Nats-"), name == "ce-source", name == "ce-specversion", name == "ce-subject", name == wire.HeaderRequestID:
		case name == "ce-id":
			id := m.Header.Get(name)
			fmt.Fprintf(&text, "  ce-id: %s\n", id[:strings.LastIndexByte(id, '.')]) // then the moment
		case name == wire.HeaderSHA256 && strings.Contains(m.Header.Get("Content-Type"), "problem"): // of moments
		default:
			fmt.Fprintf(&text, "  %s: %s\n", name, s.plain(strings.Join(m.Header[name], " | ")))
		}
	}
	body := string(m.Data)
	if len(body) > 1000 {
		body = fmt.Sprintf("%d bytes", len(body))
	}
	fmt.Fprintf(&text, "  %s\n", s.plain(body))
	return text.String()
}

// done writes down all that has become of it.
func (s *scribe) done() {
	t := s.r.t
	t.Helper()
	time.Sleep(2 * time.Second) // what is counted is written each half second
	for _, c := range s.r.upstream.Calls()[s.calls:] {
		fmt.Fprintf(s.to, "call: %s %q %q\n", c.Target, c.Header.Get("If-None-Match"), c.Header.Get("If-Modified-Since"))
	}
	s.mu.Lock()
	// Each subscription has an order of its own only.
	slices.SortStableFunc(s.said, func(a, b *nats.Msg) int {
		return cmp.Or(strings.Compare(kindOf(b), kindOf(a)), strings.Compare(a.Subject, b.Subject))
	})
	for i, m := range s.said {
		if kindOf(m) == "dlq" && strings.Contains(m.Subject, ".zoe.") {
			continue // due at a moment that is drawn from when she was called
		}
		text := s.message(m)
		for _, before := range s.said[:i] {
			if kindOf(m) == "reply" && s.message(before) == text {
				text = "  the same\n"
			}
		}
		fmt.Fprintf(s.to, "said: %s\n%s", s.plain(m.Subject), text)
	}
	s.mu.Unlock()
	now := s.r.counted()
	for _, subject := range slices.Sorted(maps.Keys(now)) {
		if strings.Contains(subject, ".zoe.") {
			continue // who is only beside it: hers may be on their way when the writing begins
		}
		if n := now[subject] - s.counted[subject]; n != 0 {
			fmt.Fprintf(s.to, "counted: %s %d\n", subject, n)
		}
	}
	samples := scrape(t, s.r.registry)
	for _, head := range slices.Sorted(maps.Keys(samples)) {
		if n := samples[head] - s.samples[head]; n != 0 && !strings.Contains(head, "_bucket") && !strings.Contains(head, "_sum") {
			fmt.Fprintf(s.to, "metric: %s %v\n", head, n)
		}
	}
	var logged []string
	for line := range strings.Lines(s.r.logs.String()[s.logged:]) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) != nil || fields["msg"] != "request" {
			continue
		}
		for _, name := range []string{"ts", "level", "msg", "since_publish", "latency", "not_before"} {
			delete(fields, name)
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		logged = append(logged, fmt.Sprintf("logged: %s\n", s.plain(string(text))))
	}
	slices.Sort(logged)
	s.to.WriteString(strings.Join(logged, ""))
}

// kept has a body of ten seconds for a symbol.
func (r *rig) kept(symbol string) {
	r.t.Helper()
	r.upstream.Fallback = func(*http.Request) *providertest.Step {
		step := providertest.JSON(200, `[{"symbol":"KEPT","key":"fmp-key-0123456789"}]`)
		step.Header.Set("Etag", `"v1"`)
		step.Header.Set("Last-Modified", "Wed, 01 Dec 1999 00:00:00 GMT")
		step.Latency = 30 * time.Millisecond
		return &step
	}
	r.final(r.quote("zoe", "kept-"+symbol, symbol, ""), 5*time.Second)
	time.Sleep(10 * time.Second)
}

// toldOf are the ways in which a request may be answered with what is kept.
var toldOf = []struct {
	name, more string
	kept       bool
}{
	{"nothing is kept", "", false}, {"a body is kept", `,"max_age":"0s"`, true}, {"a body is kept and will do", `,"max_age":"0s","max_stale":"1h"`, true},
}

func ends() (groups []endGroup) {
	// What a provider says.
	for _, c := range []struct {
		name string
		step providertest.Step
		down bool
	}{
		{name: "ok", step: providertest.JSON(200, aapl)},
		{name: "ok, with the key in it", step: providertest.JSON(200, `[{"url":"https://x.test/?apikey=fmp-key-0123456789"}]`)},
		{name: "not modified", step: providertest.Step{Status: 304, Header: http.Header{"Etag": {`"v1"`}}}},
		{name: "not found", step: providertest.JSON(404, `{"Error Message":"none"}`)},
		{name: "rejected", step: providertest.JSON(400, `{"Error Message":"bad fmp-key-0123456789"}`)},
		{name: "refused", step: providertest.JSON(401, `{"Error Message":"Invalid API KEY"}`)},
		{name: "broken", step: providertest.JSON(500, `{"Error Message":"boom"}`)},
		{name: "throttled", step: providertest.Step{Status: 429, Header: http.Header{"Retry-After": {"4"}}, Body: []byte("Limit Reach")}},
		{name: "throttled for long", step: providertest.Step{Status: 429, Header: http.Header{"Retry-After": {"100"}}, Body: []byte("Limit Reach")}},
		{name: "unreadable", step: providertest.JSON(200, `{`)},
		{name: "cut off", step: providertest.Step{Status: 200, Cut: -1}},
		{name: "down", down: true},
	} {
		groups = append(groups, endGroup{"the provider says: " + c.name, func(r *rig, s *scribe) {
			r.circuit = 0
			defer r.start(nil)()
			for i, told := range toldOf {
				symbol := fmt.Sprint("S", i)
				switch {
				case told.kept && (c.down || c.step.Cut != 0):
					continue // whether it went on the old connection is not certain
				case told.kept:
					r.kept(symbol)
				case c.step.Status == http.StatusNotModified:
					continue // nobody asks for that
				}
				step := c.step
				step.Latency = 70 * time.Millisecond
				r.upstream.Fallback = func(*http.Request) *providertest.Step { return &step }
				r.upstream.SetDown(c.down)
				over := s.listen()
				s.of(told.name)
				r.quote("alice", fmt.Sprint("q", i), symbol, told.more+`,"reply_to":"fetch.reply.alice.x"`)
				s.done()
				over()
				r.upstream.SetDown(false)
				if c.step.Status == http.StatusTooManyRequests || c.step.Status == http.StatusUnauthorized {
					time.Sleep(3 * time.Minute) // a hold is over
				}
			}
			r.allGivenBack()
		}})
	}

	// What keeps it from being called.
	for _, c := range []struct {
		name  string
		env   map[string]string
		shuts func(r *rig)
	}{
		{"a pause", nil, func(r *rig) {
			if err := fleet.Pause(r.t.Context(), r.b.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
				r.t.Fatal(err)
			}
		}},
		{"a hold", nil, func(r *rig) {
			step := providertest.Step{Status: 429, Header: http.Header{"Retry-After": {"3000"}}, Body: []byte("Limit Reach")}
			r.upstream.Script(step)
			r.quote("zoe", "held", "HELD", "")
		}},
		{"a quota", map[string]string{"FMP_REQUESTS_PER_MINUTE": "", "FETCH_CATALOG": "providers: {fmp: {limits: 3/d}}\n"}, func(*rig) {}},
		{"the month's bytes", map[string]string{"FMP_BANDWIDTH_LIMIT_GB": "1"}, func(r *rig) { r.gates[0].AddBytes(2 << 30) }},
		{"nearly the month's bytes", map[string]string{"FMP_BANDWIDTH_LIMIT_GB": "1"}, func(r *rig) { r.gates[0].AddBytes(97 << 30 / 100) }},
	} {
		groups = append(groups, endGroup{"not called for: " + c.name, func(r *rig, s *scribe) {
			for name, value := range c.env {
				if r.env[name] = value; name == "FETCH_CATALOG" {
					delete(r.env, "FMP_REQUESTS_PER_MINUTE")
					r.catalogue(value)
				}
			}
			defer r.start(nil)()
			r.kept("KEPT")
			if strings.HasPrefix(c.name, "a quota") {
				for i := range 2 {
					r.final(r.quote("zoe", fmt.Sprint("used-", i), fmt.Sprint("U", i), ""), 5*time.Second)
				}
			}
			c.shuts(r)
			time.Sleep(5 * time.Second)
			defer s.listen()()
			for i, told := range append(toldOf, toldOf[1:]...) {
				more := told.more
				if i >= len(toldOf) { // a body that is no use
					more = strings.Replace(told.more, `"1h"`, `"1s"`, 1)
				}
				lane := []string{"batch", "interactive"}[i%2]
				s.of(fmt.Sprintf("%s, %s%s", told.name, lane, map[bool]string{true: ", again"}[i >= len(toldOf)]))
				symbol := map[bool]string{true: "KEPT", false: "NEW"}[told.kept]
				r.ask("fetch.request.fmp."+lane+".quote.alice", "", fmt.Sprintf(`{"id":"q%d","params":{"symbol":%q}%s}`, i, symbol, more))
				s.done()
			}
			if strings.Contains(c.name, "bytes") {
				s.of("what a person sent back to work")
				l := dlq.Letter{
					Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "again"}, Lane: fetchworker.LaneBatch, Generation: 2,
					Class: wire.ClassTransient, Calls: 4, RequestedAt: time.Now(), FailedAt: time.Now(), NotBefore: time.Now(), Body: []byte(`{"params":{"symbol":"NEW"}}`),
				}
				if _, err := r.b.JS.PublishMsg(r.t.Context(), l.Replayed()); err != nil {
					r.t.Fatal(err)
				}
				s.done()
			}
			r.allGivenBack()
		}})
	}

	// What is not called for at all, and what others have had.
	groups = append(groups, endGroup{"without a call of its own", func(r *rig, s *scribe) {
		r.circuit = 0
		r.env["FETCH_RIGHTS"] = filepath.Join(r.t.TempDir(), "rights.yaml")
		if err := os.WriteFile(r.env["FETCH_RIGHTS"], []byte("agents:\n  alice: []\n"), 0o600); err != nil {
			r.t.Fatal(err)
		}
		stop := r.start(nil)
		defer func() { stop() }()
		r.kept("KEPT")
		defer s.listen()()
		for _, c := range []struct{ name, subject, body string }{
			{"it is kept", "interactive.quote.alice", `{"id":"r1","params":{"symbol":"KEPT"},"max_age":"1h","reply_to":"fetch.reply.alice.x"}`},
			{"an id that was used", "batch.quote.alice", `{"id":"r1","params":{"symbol":"OTHER"},"reply_to":"fetch.reply.alice.x"}`},
			{"no such operation", "batch.qoute.alice", `{"id":"r2","params":{}}`},
			{"no such parameter", "batch.quote.alice", `{"id":"r3","params":{"simbol":"X"}}`},
			{"no object", "batch.quote.alice", `[1]`},
			{"no right", "interactive.quote.alice", `{"id":"r4","params":{"symbol":"X"},"use":["export"]}`},
		} {
			s.of(c.name)
			r.ask("fetch.request.fmp."+c.subject, "", c.body)
			s.done()
		}
		stop()
		s.of("its deadline has passed")
		r.quote("alice", "r5", "X", `,"ttl":"5s"`)
		time.Sleep(10 * time.Second)
		stop = r.start(nil)
		s.samples = nil
		s.done()
		for _, c := range []struct {
			name   string
			status int
			body   string
		}{{"shared", 200, aapl}, {"shared, not found", 404, `{"Error Message":"none"}`}, {"not shared", 500, `{"Error Message":"boom"}`}} {
			step := providertest.JSON(c.status, c.body)
			step.Latency = time.Second
			r.upstream.Fallback = func(*http.Request) *providertest.Step { return &step }
			r.quote("zoe", strings.ReplaceAll(c.name[:6], " ", "-")+fmt.Sprint(c.status), fmt.Sprint("SHARED", c.status), "")
			time.Sleep(600 * time.Millisecond) // beyond the half second after which is written what was counted
			s.of(c.name)
			r.quote("alice", fmt.Sprint("s", c.status), fmt.Sprint("SHARED", c.status), "")
			s.done()
			time.Sleep(10 * time.Second)
			s.of("cancelled while it is called, " + c.name)
			r.quote("alice", fmt.Sprint("c", c.status), fmt.Sprint("CANCELLED", c.status), "")
			time.Sleep(500 * time.Millisecond)
			r.cancelAll("alice", fetchworker.CancelFilter{Provider: "fmp"})
			s.done()
			time.Sleep(10 * time.Second)
		}
		step := providertest.JSON(200, aapl)
		step.Latency = time.Second
		r.upstream.Fallback = func(*http.Request) *providertest.Step { return &step }
		s.of("two under one id, both on their way")
		r.quote("alice", "twice", "FIRST", "")
		time.Sleep(500 * time.Millisecond)
		r.quote("alice", "twice", "SECOND", "")
		s.done()
		r.allGivenBack()
	}})

	// What comes back to work.
	groups = append(groups, endGroup{"it comes back", func(r *rig, s *scribe) {
		r.circuit = 0
		stop := r.start(nil)
		defer func() { stop() }()
		r.kept("KEPT")
		step := providertest.JSON(500, `{"Error Message":"boom"}`)
		r.upstream.Fallback = func(*http.Request) *providertest.Step { return &step }
		defer s.listen()()
		for _, failures := range []int{2, 3} {
			for _, symbol := range []string{"NEW", "KEPT"} {
				s.of(fmt.Sprintf("it has failed %d times, %s", failures, symbol))
				now := time.Now()
				l := dlq.Letter{
					Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint(symbol, failures)}, Lane: fetchworker.LaneInteractive, Generation: 1,
					Class: wire.ClassTransient, Calls: failures + 1, Failures: failures, RequestedAt: now.Add(-time.Minute), FirstFailedAt: now.Add(-30 * time.Second),
					FailedAt: now.Add(-20 * time.Second), NotBefore: now, Error: "before", HTTPStatus: 503,
					Body: []byte(fmt.Sprintf(`{"params":{"symbol":%q},"max_age":"0s"}`, symbol)),
				}
				l.Record(dlq.Attempt{At: now.Add(-20 * time.Second), Class: wire.ClassTransient, HTTPStatus: 503, LatencyMS: 5, Error: "before"})
				if _, err := r.b.JS.PublishMsg(r.t.Context(), l.Replayed()); err != nil {
					r.t.Fatal(err)
				}
				s.done()
				time.Sleep(time.Minute)
			}
		}
		s.of("its life is over")
		l := dlq.Letter{
			Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "old"}, Lane: fetchworker.LaneInteractive, Generation: 1,
			Class: wire.ClassPaused, Calls: 1, Failures: 1, RequestedAt: time.Now().Add(-80 * time.Hour), FailedAt: time.Now(), NotBefore: time.Now(), Body: []byte(`{"params":{"symbol":"OLD"}}`),
		}
		if _, err := r.b.JS.PublishMsg(r.t.Context(), l.Replayed()); err != nil {
			r.t.Fatal(err)
		}
		s.done()
		stop()
		s.of("it has killed three workers")
		r.quote("alice", "kills", "KILLS", "")
		sequence := r.last(fetchworker.StreamRequests)
		r.vanish(5)
		if _, err := r.b.KV.PutString(r.t.Context(), fmt.Sprintf("suspect.%s.%d", fetchworker.StreamRequests, sequence), `{"running":["a","b","c"]}`); err != nil {
			r.t.Fatal(err)
		}
		stop = r.start(nil)
		s.samples = nil
		s.done()
		r.allGivenBack()
	}})
	return groups
}

// last is the sequence of a stream's last message.
func (r *rig) last(stream string) uint64 {
	r.t.Helper()
	s, err := r.b.JS.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}
