package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/gateway/tokens"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// wired is a gateway behind a wire that can be broken, on a clock of its own.
type wired struct {
	*brokertest.Wire
	t *testing.T
	b *brokertest.Broker
	g *Gateway
}

func throughAWire(t *testing.T, config Config, test func(*testing.T, *wired)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &wired{Wire: &brokertest.Wire{}, t: t, b: brokertest.StartIn(t, dir, "")}
		t.Cleanup(w.b.Stop)
		w.b.Ageless(t)
		nc := w.b.ConnectThrough(t, w.Wire)
		nc.SetErrorHandler(nil)
		t.Cleanup(nc.Close)
		config.NC, config.Logger = nc, zap.NewNop()
		var err error
		if w.g, err = New(config); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.g.Close)
		test(t, w)
	})
}

// store stores an answer of whoever names no agent, and tells its sequence.
func (w *wired) store(id, body string) uint64 {
	w.t.Helper()
	return w.put(fetchworker.Answer{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: anybody, ID: id},
		Status:   fetchworker.StatusOK, Final: true, Generation: 1, Body: []byte(body), ContentType: "application/json",
	})
}

func (w *wired) put(a fetchworker.Answer) uint64 {
	w.t.Helper()
	ack, err := w.b.JS.PublishMsg(context.WithoutCancel(w.t.Context()), a.Encode())
	if err != nil {
		w.t.Fatal(err)
	}
	return ack.Sequence
}

// client is an HTTP client that takes what it is sent as a test says.
type client struct {
	header http.Header
	status int
	before func(sent string) // each piece is taken

	mu   sync.Mutex
	sent bytes.Buffer
	done chan any // what it panicked with
}

func (c *client) Header() http.Header { return c.header }
func (c *client) WriteHeader(s int)   { c.status = s }
func (c *client) Flush()              {}
func (c *client) Write(p []byte) (int, error) {
	if c.before != nil {
		c.before(c.said())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent.Write(p)
}

func (c *client) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent.String()
}

// asks sends a request, until its context ends.
func (w *wired) asks(ctx context.Context, path string, before func(string), headers ...string) *client {
	c := &client{header: http.Header{}, before: before, done: make(chan any, 1)}
	r := httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx)
	r.Host = "localhost"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	go func() {
		defer func() { c.done <- recover() }()
		w.g.ServeHTTP(c, r)
	}()
	return c
}

// events are the ids of the requests that a stream told of.
func (c *client) events(t *testing.T) (ids []string) {
	t.Helper()
	for line := range strings.SplitSeq(c.said(), "\n") {
		if text, ok := strings.CutPrefix(line, "data: "); ok {
			var e answerEvent
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				t.Error(err)
			}
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// A stream tells every answer once, in their order, whatever its client does
// meanwhile and wherever it goes on: while it takes what comes, after it took
// nothing for so long that the feed has forgotten what came, and where it comes
// back with the id of an event.
func TestAStreamTellsEveryAnswerOnce(t *testing.T) {
	throughAWire(t, Config{}, func(t *testing.T, w *wired) {
		large := func(id string) { // few of them are more than a feed remembers
			p := fetchworker.Failure(fetchworker.Identity{}, fetchworker.CodeRejected, strings.Repeat("x", feedBytes/20))
			w.put(fetchworker.Answer{
				Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: anybody, ID: id},
				Status:   fetchworker.StatusFailed, Final: true, Generation: 1, Problem: &p,
			})
		}
		first := w.store("before", "[1]")
		ctx, stop := context.WithCancel(t.Context())
		slow := make(chan struct{})
		lags := w.asks(ctx, "/v1/answers", func(sent string) {
			if strings.Contains(sent, "live-1") && !strings.Contains(sent, "live-2") {
				<-slow
			}
		})
		keepsUp := w.asks(ctx, "/v1/answers", nil)
		resumes := w.asks(ctx, "/v1/answers", nil, "Last-Event-ID", fmt.Sprint(first))
		beyond := w.asks(ctx, "/v1/answers", nil, "Last-Event-ID", "1000000")
		everything := w.asks(ctx, "/v1/answers", nil, "Last-Event-ID", "0")
		time.Sleep(time.Second)
		want := []string{"live-0", "live-1"}
		w.store("live-0", "[1]")
		time.Sleep(time.Second)
		w.store("live-1", "[1]")
		time.Sleep(time.Second)
		for i := range 30 {
			id := fmt.Sprint("live-2-", i)
			want = append(want, id)
			large(id)
			time.Sleep(time.Millisecond)
		}
		close(slow)
		time.Sleep(time.Second)
		w.store("at-last", "[1]")
		want = append(want, "at-last")
		time.Sleep(time.Second)
		for name, c := range map[string]*client{"keeps up": keepsUp, "lags": lags, "resumes": resumes, "beyond": beyond} {
			if got := c.events(t); !slices.Equal(got, want) {
				t.Errorf("who %s is told %v", name, got)
			}
		}
		if got := everything.events(t); !slices.Equal(got, append([]string{"before"}, want...)) {
			t.Errorf("who asks for everything is told %v", got)
		}
		time.Sleep(time.Minute)
		if beats := strings.Count(keepsUp.said(), "\n:\n"); beats < 3 || beats > 5 {
			t.Errorf("%d signs of life in a minute", beats)
		}
		stop()
		for _, c := range []*client{lags, keepsUp, resumes, beyond, everything} {
			<-c.done
		}
		if n := w.g.streams.Load(); n != 0 {
			t.Errorf("%d streams are left open", n)
		}
	})
}

// A stream whose answers may not be read any more ends, and so does one whose
// first read is refused: its client is told, and does not listen for ever.
func TestAStreamThatCannotGoOnEnds(t *testing.T) {
	for name, c := range map[string]struct {
		served int // reads
		status int
	}{"the first read": {0, http.StatusForbidden}, "the second": {1, 0}} {
		throughAWire(t, Config{}, func(t *testing.T, w *wired) {
			w.store("before", "[1]")
			w.Break("DIRECT.GET", brokertest.ReplyLate, c.served, time.Millisecond)
			w.Break("DIRECT.GET", brokertest.Refused, 100, 0)
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			s := w.asks(ctx, "/v1/answers", nil)
			<-s.done
			if ctx.Err() != nil || s.status != c.status {
				t.Errorf("%s is refused: %d, %v", name, s.status, ctx.Err())
			}
		})
	}
}

// A token that names another agent by now, or none, hears no more of its former
// agent's answers.
func TestATokenThatIsAnothersHearsNothing(t *testing.T) {
	token, line, err := tokens.New(anybody)
	if err != nil {
		t.Fatal(err)
	}
	for name, now := range map[string]string{"another's": strings.TrimSuffix(line, anybody) + "bob", "nobody's": "# " + line} {
		file := filepath.Join(t.TempDir(), "tokens.yaml")
		write := func(text string) {
			if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(line)
		known, err := tokens.Load(file, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		throughAWire(t, Config{Tokens: known}, func(t *testing.T, w *wired) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			s := w.asks(ctx, "/v1/answers", nil, "Authorization", "Bearer "+token)
			time.Sleep(time.Second)
			w.store("a", "[1]")
			time.Sleep(time.Second)
			write(now)
			w.store("b", "[1]")
			<-s.done
			if got := s.events(t); !slices.Equal(got, []string{"a"}) {
				t.Errorf("%s: told %v", name, got)
			}
		})
	}
}

// A body that a slow client takes in pieces is the one that was promised to the
// end, or it is broken off: what stands by then may be another.
func TestABodyIsOfOneAnswer(t *testing.T) {
	one, other := `"`+strings.Repeat("a", 3*pieceBytes)+`"`, `"`+strings.Repeat("b", 3*pieceBytes)+`"`
	for name, c := range map[string]struct {
		again string
		slow  time.Duration // than a piece is waited for
		whole bool
	}{
		"quick": {other, 0, true}, "slow, and the same stands": {one, time.Minute, true}, "slow, and another stands": {other, time.Minute, false},
	} {
		throughAWire(t, Config{}, func(t *testing.T, w *wired) {
			w.store("q-1", one)
			again := false
			s := w.asks(t.Context(), "/v1/requests/fmp/quote/q-1", func(string) {
				if !again {
					again = true
					w.store("q-1", c.again)
				}
				time.Sleep(c.slow)
			})
			ended := <-s.done
			if (ended == nil) != c.whole || c.whole && s.said() != one || strings.Contains(s.said(), "b") {
				t.Errorf("%s: %d bytes of %d, ended with %v", name, len(s.said()), len(one), ended)
			}
		})
	}
}

// An agent that is asked for in the moment that it is about to be forgotten is not:
// whoever has it, it is the one that is known.
func TestAnAgentIsUsedWhileItIsForgotten(t *testing.T) {
	throughAWire(t, Config{}, func(t *testing.T, w *wired) {
		a := w.g.agents
		const n = 30
		name := func(i int) string { return fmt.Sprint("agent-", i) }
		for i := range n {
			_, leave, err := a.use(name(i))
			if err != nil {
				t.Fatal(err)
			}
			leave()
		}
		a.mu.Lock()
		time.Sleep(agentIdle) // they all want to forget theirs now
		var using sync.WaitGroup
		used := make([]*agent, n)
		for i := range n {
			using.Go(func() { used[i], _, _ = a.use(name(i)) })
		}
		for range 1000 {
			runtime.Gosched()
		}
		a.mu.Unlock()
		using.Wait()
		time.Sleep(time.Second)
		a.mu.Lock()
		known := maps.Clone(a.byName)
		a.mu.Unlock()
		for i, one := range used {
			if known[name(i)] != one {
				t.Errorf("%s is used and not known", name(i))
			}
			if _, err := one.LastAnswer(t.Context()); err != nil {
				t.Errorf("%s: %v", name(i), err)
			}
		}
	})
}

// What is told of a request that was asked earlier, and when: its answer, or why it
// waits as far as anybody knows, or that nothing is known of it.
func TestWhatIsToldOfARequest(t *testing.T) {
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: anybody, ID: "q-1"}
	final := func(w *wired) { w.store("q-1", "[1]") }
	waits := func(w *wired) {
		p := fetchworker.Waiting(id, fetchworker.ReasonCircuitOpen, "", time.Time{})
		w.put(fetchworker.Answer{Identity: id, Status: fetchworker.StatusWaiting, Generation: 1, Problem: &p})
	}
	later := func(do func(*wired)) func(*wired) {
		return func(w *wired) {
			stored := make(chan struct{})
			time.AfterFunc(3*time.Second, func() { defer close(stored); do(w) })
			w.t.Cleanup(func() { <-stored })
		}
	}
	silent := func(w *wired) { w.Break("DIRECT.GET", brokertest.RequestLost, 1<<20, 0) }
	for name, c := range map[string]struct {
		meet   func(*wired)
		prefer string
		status int
		word   string // of the problem
		after  time.Duration
	}{
		"the answer":                 {final, "", 200, "", 0},
		"waited for, and there":      {final, "wait=5", 200, "", 0},
		"waited for, and it comes":   {later(final), "wait=5", 200, "", 3 * time.Second},
		"it waits":                   {waits, "", 202, "waiting:circuit_open", 0},
		"it waits, and so did we":    {waits, "wait=5", 202, "waiting:circuit_open", 5 * time.Second},
		"it comes to wait":           {later(waits), "wait=5", 202, "waiting:circuit_open", 5 * time.Second},
		"asked here":                 {func(w *wired) { w.g.lately.note(id) }, "", 202, "waiting:no_worker", 0},
		"asked here, and waited for": {func(w *wired) { w.g.lately.note(id) }, "wait=5", 202, "waiting:no_worker", 5 * time.Second},
		"asked here, and workers stand still": {func(w *wired) {
			w.g.lately.note(id)
			if _, err := w.b.NC.Subscribe("fetch.catalog.*", func(*nats.Msg) {}); err != nil {
				w.t.Fatal(err)
			}
			_ = w.b.NC.Flush()
		}, "", 202, "waiting:queued", queuedAgain},
		"unknown":                     {func(*wired) {}, "", 404, "error:no_answer", 0},
		"unknown, and waited for":     {func(*wired) {}, "wait=5", 404, "error:no_answer", 5 * time.Second},
		"unknown, and no time at all": {func(*wired) {}, "respond-async, wait=0", 404, "error:no_answer", 0},
		"the server says nothing":     {silent, "", 503, "error:unreached", 10 * time.Second},
		"it permits nothing":          {func(w *wired) { w.Break("DIRECT.GET", brokertest.Refused, 100, 0) }, "", 403, "error:rights_violation", 0},
	} {
		t.Run(name, func(t *testing.T) {
			throughAWire(t, Config{}, func(t *testing.T, w *wired) {
				c.meet(w)
				began := time.Now()
				s := w.asks(t.Context(), "/v1/requests/fmp/quote/q-1", nil, "Prefer", c.prefer)
				<-s.done
				if took := time.Since(began); took < c.after || took > c.after+50*time.Millisecond {
					t.Errorf("after %v", took)
				}
				if c.status == 200 {
					if s.status != 0 || s.said() != "[1]" {
						t.Errorf("%d: %s", s.status, s.said())
					}
					return
				}
				var p fetchworker.Problem
				if err := json.Unmarshal([]byte(s.said()), &p); err != nil || s.status != c.status || p.Status != c.status || p.Type != "urn:fetch:"+c.word {
					t.Errorf("%d: %s, %v", s.status, s.said(), err)
				}
				if known := c.word == "waiting:circuit_open"; known != (s.header.Get("Fetch-Status") == "waiting") || known != (s.header.Get("Fetch-Reason") == "circuit_open") {
					t.Errorf("%v", s.header)
				}
				if again := s.header.Get("Retry-After"); (again == "") != (c.status == 403) {
					t.Errorf("to be asked again after %q", again)
				}
			})
		})
	}
}

// Who asks only for the headers of a stream has them, and no stream.
func TestTheHeadersOfAStream(t *testing.T) {
	throughAWire(t, Config{}, func(t *testing.T, w *wired) {
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		c := &client{header: http.Header{}}
		r := httptest.NewRequest(http.MethodHead, "/v1/answers", nil).WithContext(ctx)
		r.Host = "localhost"
		w.g.ServeHTTP(c, r)
		if ctx.Err() != nil || c.header.Get("Content-Type") != "text/event-stream" || c.said() != "" || w.g.streams.Load() != 0 {
			t.Errorf("%v: %v, %q", ctx.Err(), c.header, c.said())
		}
	})
}
