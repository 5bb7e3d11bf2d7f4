package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/providers/providertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/providers/call"
	"fetchworker/internal/wire"
)

// What the demonstration runs faster than production, so that nobody has to
// wait: everything else is the defaults.
const (
	demoRetryBase   = 500 * time.Millisecond
	demoCircuitOpen = 2 * time.Second
)

// played are the providers with the path of their base URL and the prefix of
// their variables.
var played = []struct{ name, prefix, path string }{
	{"fmp", "FMP", "/api/v3"},
	{"polygon", "POLYGON", ""},
	{"fred", "FRED", "/fred"},
	{"newsapi", "NEWS", "/v2"},
}

// stage is all that a demonstration plays on: the played providers, a worker
// run by serve, two agents, and a witness of every answer.
type stage struct {
	out      io.Writer
	raised   time.Time
	url      string // of the embedded NATS
	upstream map[string]*providertest.Server
	recorded map[string]*call.Exchange // by "<provider>/<name>"
	agents   map[string]*fetchworker.Client
	js       jetstream.JetStream
	board    *fleet.View
	seen     *witness
	log      *lastLines
	served   chan error // closed after serve's error is in it
	rows     []*row
	row      *row                   // that is open
	booked   int                    // calls that are in a row
	down     time.Time              // when polygon went off the network
	parked   []fetchworker.Identity // what was asked of it meanwhile
	closing  app.Stack
	page     string // where it is shown; empty: nowhere
}

// raise builds the stage, or leaves nothing behind.
func raise(ctx context.Context, stdout io.Writer, page string) (s *stage, err error) {
	s = &stage{
		out: stdout, raised: time.Now(), log: &lastLines{most: 20}, served: make(chan error, 1),
		upstream: map[string]*providertest.Server{}, recorded: map[string]*call.Exchange{}, agents: map[string]*fetchworker.Client{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	dir, err := os.MkdirTemp("", "fetchworker-demo-")
	if err != nil {
		return s, fmt.Errorf("a folder for the queue: %w", err)
	}
	s.closing.Push("folder", func() error { return os.RemoveAll(dir) })

	env := map[string]string{
		"FETCH_DATA_DIR": dir, "FETCH_NATS_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_GATEWAY": "off", "FETCH_PAGE_ADDR": page,
		"FETCH_RETRY_BASE_SECONDS": fmt.Sprint(demoRetryBase.Seconds()), "FETCH_CIRCUIT_OPEN_SECONDS": fmt.Sprint(demoCircuitOpen.Seconds()),
	}
	if err := s.play(env); err != nil { //nolint:contextcheck // what listens does so until it is closed
		return s, err
	}
	if err := s.start(ctx, env); err != nil {
		return s, err
	}
	return s, s.watch(ctx)
}

// play starts the four providers and points the environment at them.
func (s *stage) play(env map[string]string) error {
	for _, p := range played {
		exchanges, err := providertest.Exchanges(p.name)
		if err != nil {
			return err
		}
		server, err := providertest.Listen(exchanges...)
		if err != nil {
			return err
		}
		s.closing.Push(p.name, func() error { server.Close(); return nil })
		for _, e := range exchanges {
			s.recorded[p.name+"/"+e.Name] = e
		}
		key := "demonstration-key-of-" + p.name
		server.SetKey(key)
		server.Fallback = func(r *http.Request) *providertest.Step {
			if !strings.Contains(r.URL.Path, brokenSymbol) {
				return nil
			}
			step := providertest.JSON(http.StatusInternalServerError, `{"message":"internal error"}`)
			return &step
		}
		s.upstream[p.name] = server
		env[p.prefix+"_API_KEY"], env[p.prefix+"_BASE_URL"] = key, server.URL()+p.path
	}
	return nil
}

// start runs a worker as main does, and waits until it serves.
func (s *stage) start(ctx context.Context, env map[string]string) error {
	servers := slices.Collect(maps.Values(s.upstream))
	ready := make(chan string, 1)
	serving, stop := context.WithCancel(ctx)
	go func() {
		s.served <- serve(serving, func(name string) string { return env[name] }, s.log, &hooks{
			dial:  providertest.DialHosts(servers...), // and nowhere else
			ready: func(_, natsURL string) { ready <- natsURL },
			shown: func(url string) { s.page = url },
		})
		close(s.served)
	}()
	s.closing.Push("worker", func() error {
		stop()
		for err := range s.served {
			return err
		}
		return nil // reported already
	})
	select {
	case s.url = <-ready:
		return nil
	case err := <-s.served:
		return fmt.Errorf("the worker did not start: %w", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch connects the agents, and a witness who sees what they see.
func (s *stage) watch(ctx context.Context) error {
	for _, name := range []string{"alice", "bob"} {
		agent, err := fetchworker.Connect(s.url, name)
		if err != nil {
			return err
		}
		s.closing.Push(name, func() error { agent.Close(); return nil })
		s.agents[name] = agent
	}
	nc, err := nats.Connect(s.url, nats.Name("fetchworker demo"))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	s.closing.Push("witness", func() error { nc.Close(); return nil })
	if s.seen, err = newWitness(nc); err != nil {
		return err
	}
	if s.js, err = broker.JetStream(nc); err != nil {
		return err
	}
	kv, err := s.js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", wire.BucketProviders, err)
	}
	if s.board, err = fleet.Watch(ctx, s.js, kv); err != nil {
		return err
	}
	s.closing.Push("board", func() error { s.board.Close(); return nil })
	return nil
}

func (s *stage) close() error { return s.closing.Close() }

// say prints; a terminal that is gone ends the demonstration elsewhere.
func (s *stage) say(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// request is what an agent asks for in a scene.
type request struct {
	agent, provider, operation, params string
	recording                          string // that the answer must equal
	maxAge                             time.Duration
	use                                []string
}

func (r request) String() string {
	return fmt.Sprintf("%-5s asks %-7s for %s %s", r.agent, r.provider, r.operation, r.params)
}

// freshly is a max_age that no kept body can meet: it asks the provider.
const freshly = -1

// ask publishes a request. It is counted for the scene's row.
func (s *stage) ask(ctx context.Context, r request) (fetchworker.Identity, error) {
	asked := fetchworker.Request{Provider: r.provider, Operation: r.operation, Params: json.RawMessage(r.params), Use: r.use}
	if r.maxAge == freshly {
		asked.MaxAge = new(fetchworker.Duration)
	}
	receipt, err := s.agents[r.agent].Submit(ctx, asked)
	if err != nil {
		return fetchworker.Identity{}, err
	}
	s.row.ids = append(s.row.ids, receipt.Identity)
	return receipt.Identity, nil
}

// final waits for a request's final answer.
func (s *stage) final(ctx context.Context, id fetchworker.Identity, within time.Duration) (a fetchworker.Answer, err error) {
	err = s.until(ctx, within, fmt.Sprintf("%s %s of %s is answered", id.Provider, id.Operation, id.Agent), func() (bool, error) {
		for _, a = range s.seen.of(id) {
			if a.Final {
				return true, nil
			}
		}
		return false, nil
	})
	return a, err
}

// asRecorded checks that an answer is what the provider sent, to the byte.
func (s *stage) asRecorded(r request, a fetchworker.Answer) error {
	if a.Status != fetchworker.StatusOK {
		return fmt.Errorf("%s: %s, %w", r, a.Status, a.Err())
	}
	if want := s.recorded[r.provider+"/"+r.recording]; want == nil || !bytes.Equal(a.Body, want.Body) {
		return fmt.Errorf("%s: the answer is not what the provider sent", r)
	}
	return nil
}

// until looks again and again until something is so. What it waits for names
// the error if that does not come.
func (s *stage) until(ctx context.Context, within time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %v: %s", within, what))
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		if done, err := so(); done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case err := <-s.served:
			return fmt.Errorf("the worker has stopped: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// count is how many messages a stream holds.
func (s *stage) count(ctx context.Context, stream string) (uint64, error) {
	found, err := s.js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream, err)
	}
	return found.CachedInfo().State.Msgs, nil
}

// callsReceived are all calls that have arrived at the played providers.
func (s *stage) callsReceived() int {
	n := 0
	for _, server := range s.upstream {
		n += len(server.Calls())
	}
	return n
}

// witness keeps every answer that is published, in order.
type witness struct {
	mu      sync.Mutex
	answers map[fetchworker.Identity][]fetchworker.Answer
}

func newWitness(nc *nats.Conn) (*witness, error) {
	w := &witness{answers: map[fetchworker.Identity][]fetchworker.Answer{}}
	_, err := nc.Subscribe("fetch.result.>", func(m *nats.Msg) {
		a, err := fetchworker.DecodeAnswer(m.Subject, m.Header, m.Data)
		if err != nil {
			return // then the answer that a scene waits for does not come
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.answers[a.Identity] = append(w.answers[a.Identity], a)
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to the answers: %w", err)
	}
	return w, nc.Flush()
}

func (w *witness) of(id fetchworker.Identity) []fetchworker.Answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.answers[id])
}

// waited reports whether a request was told to wait.
func (w *witness) waited(id fetchworker.Identity) bool {
	return slices.ContainsFunc(w.of(id), func(a fetchworker.Answer) bool { return a.Status == fetchworker.StatusWaiting })
}

// lastLines keeps the end of what is written to it.
type lastLines struct {
	most  int
	mu    sync.Mutex
	lines []string
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimSuffix(string(p), "\n"))
	l.lines = l.lines[max(0, len(l.lines)-l.most):]
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
