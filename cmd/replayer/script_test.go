package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	testscript.Main(m, map[string]func(){"replayer": main})
}

// TestScripts runs testdata/*.txtar: the manual, executable. Each script has
// a server of its own, and the commands below to put something on it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		Setup:         func(e *testscript.Env) error { return setup(t, e) },
		Cmds:          commands,
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// atOnce is for programs under the race detector, which otherwise wait for a
// second before they end.
const atOnce = "atexit_sleep_ms=0"

type stageKey struct{}

// stage is a script's server.
type stage struct {
	*brokertest.Broker
	log   *record.Log
	calls map[string]int // of the worker, by request id; nil: not counted
}

func setup(t *testing.T, e *testscript.Env) error {
	t.Helper()
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	e.Defer(b.Stop)
	e.Values[stageKey{}] = &stage{Broker: b, log: record.New(b.JS, nil)}
	e.Setenv("NATS_URL", b.Server.URL())
	e.Setenv("USER", "ann")
	e.Setenv("FETCH_HTTP_ADDR", "off")
	e.Setenv("GORACE", atOnce)
	e.Setenv("TMPDIR", e.WorkDir)
	return nil
}

func stageOf(ts *testscript.TestScript) *stage {
	s, ok := ts.Value(stageKey{}).(*stage)
	if !ok {
		ts.Fatalf("no server")
	}
	return s
}

// pairs are a command's key=value arguments.
type pairs map[string]string

func pairsOf(args []string) pairs {
	p := pairs{}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		p[key] = value
	}
	return p
}

func (p pairs) text(key, standard string) string {
	if v, ok := p[key]; ok {
		return v
	}
	return standard
}

func (p pairs) number(ts *testscript.TestScript, key string, standard int) int {
	n, err := strconv.Atoi(p.text(key, strconv.Itoa(standard)))
	ts.Check(err)
	return n
}

func (p pairs) span(ts *testscript.TestScript, key, standard string) time.Duration {
	d, err := time.ParseDuration(p.text(key, standard))
	ts.Check(err)
	return d
}

func (p pairs) letter(ts *testscript.TestScript, n int) dlq.Letter {
	id := p.text("id", "q")
	if p.number(ts, "count", 1) > 1 {
		id += "-" + strconv.Itoa(n)
	}
	now := time.Now().UTC()
	failed := now.Add(-p.span(ts, "ago", "1m"))
	l := dlq.Letter{
		Identity:   fetchworker.Identity{Provider: p.text("provider", "fmp"), Operation: p.text("operation", "quote"), Agent: p.text("agent", "alice"), ID: id},
		Lane:       fetchworker.Lane(p.text("lane", "interactive")),
		Body:       []byte(p.text("body", `{"params":{"symbol":"AAPL"}}`)),
		Generation: p.number(ts, "generation", 1), Calls: p.number(ts, "calls", 1), Failures: p.number(ts, "failures", 1),
		Class: wire.Class(p.text("class", "transient")), Error: p.text("error", "timeout after 5s"), HTTPStatus: p.number(ts, "http", 0),
		RequestedAt: failed.Add(-time.Second), FailedAt: failed, FirstFailedAt: failed,
		NotBefore: now.Add(p.span(ts, "due", "1h")), Worker: "w-1",
		Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	}
	if _, ok := p["deadline"]; ok {
		l.Deadline = now.Add(p.span(ts, "deadline", "1h"))
	}
	l.Record(dlq.Attempt{At: failed, Class: l.Class, HTTPStatus: l.HTTPStatus, LatencyMS: 5000, Error: l.Error})
	return l
}

var commands = map[string]func(*testscript.TestScript, bool, []string){
	// exits CODE replayer ARGS: the exit code, exactly.
	"exits": func(ts *testscript.TestScript, _ bool, args []string) {
		err := ts.Exec(args[1], args[2:]...)
		code := 0
		if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as it comes from Exec
			code = exit.ExitCode()
		} else {
			ts.Check(err)
		}
		if strconv.Itoa(code) != args[0] {
			ts.Fatalf("exit code %d, want %s", code, args[0])
		}
	},
	// bare: a server with nothing of fetchworker on it.
	"bare": func(ts *testscript.TestScript, _ bool, _ []string) {
		e, err := broker.Embed(broker.EmbedOptions{DataDir: ts.MkAbs("bare"), Listen: "127.0.0.1:0", Sync: time.Minute})
		ts.Check(err)
		ts.Defer(e.Shutdown)
		ts.Setenv("NATS_URL", e.URL())
	},
	// unserved: the replayers' consumer is gone, as where none ever ran.
	"unserved": func(ts *testscript.TestScript, _ bool, _ []string) {
		ts.Check(stageOf(ts).JS.DeleteConsumer(context.Background(), wire.StreamDLQ, broker.ReplayerConsumer))
	},
	// letter [key=value …]: dead letters, count=N of them.
	"letter": func(ts *testscript.TestScript, _ bool, args []string) {
		p, s := pairsOf(args), stageOf(ts)
		for n := range p.number(ts, "count", 1) {
			ts.Check(dlq.Put(context.Background(), s.log, p.letter(ts, n+1)))
		}
	},
	// queued [key=value …]: requests that wait for their turn, count=N of them.
	"queued": func(ts *testscript.TestScript, _ bool, args []string) {
		p, s := pairsOf(args), stageOf(ts)
		for n := range p.number(ts, "count", 1) {
			l := p.letter(ts, n+1)
			m := nats.NewMsg(fetchworker.RequestSubject(l.Provider, l.Lane, l.Operation, l.Agent))
			m.Data = fmt.Appendf(nil, `{"id":%q,"params":{"symbol":"AAPL"}}`, l.ID)
			_, err := s.JS.PublishMsg(context.Background(), m)
			ts.Check(err)
		}
	},
	// released [key=value …]: letters in the replay stream.
	"released": func(ts *testscript.TestScript, _ bool, args []string) {
		_, err := stageOf(ts).JS.PublishMsg(context.Background(), pairsOf(args).letter(ts, 1).Replayed())
		ts.Check(err)
	},
	// item [key=value …]: review items with their failed answers.
	"item": func(ts *testscript.TestScript, _ bool, args []string) {
		p, s := pairsOf(args), stageOf(ts)
		for n := range p.number(ts, "count", 1) {
			l := p.letter(ts, n+1)
			m := l.ReviewItem()
			if header, ok := p["broken"]; ok {
				m.Header.Set(header, "not a number")
			}
			_, err := s.JS.PublishMsg(context.Background(), m)
			ts.Check(err)
			problem := fetchworker.Failure(l.Identity, fetchworker.CodeRetriesExhausted, l.Error)
			_, _, err = answer.New(s.log).Put(context.Background(), fetchworker.Answer{
				Identity: l.Identity, Status: fetchworker.StatusFailed, Final: true, Review: true,
				Generation: l.Generation, Calls: l.Calls, Failures: l.Failures, Problem: &problem,
			}, "")
			ts.Check(err)
		}
	},
	// answer STATUS [key=value …]: a final answer.
	"answer": func(ts *testscript.TestScript, _ bool, args []string) {
		p := pairsOf(args[1:])
		l := p.letter(ts, 1)
		_, _, err := answer.New(stageOf(ts).log).Put(context.Background(), fetchworker.Answer{
			Identity: l.Identity, Status: fetchworker.Status(args[0]), Final: true, Generation: l.Generation,
			ContentType: "application/json", Body: []byte(`[{"price":1}]`),
		}, "")
		ts.Check(err)
	},
	// worker NAME PROVIDER …: a live worker, for 15 s.
	"worker": func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(fleet.Beat(context.Background(), stageOf(ts).JS, fleet.Worker{Name: args[0], Version: "test", Providers: args[1:]}))
	},
	// configured NAME PROVIDER LIMITS: a live worker with limits of its own, and 5 GiB
	// a month.
	"configured": func(ts *testscript.TestScript, _ bool, args []string) {
		ts.Check(fleet.Beat(context.Background(), stageOf(ts).JS, fleet.Worker{
			Name: args[0], Version: "test", Providers: args[1:2], Limits: map[string]string{args[1]: args[2]},
			Bytes: map[string]int64{args[1]: 5 << 30}, Keyless: map[string]string{"newsapi": "NEWS_API_KEY"},
		}))
	},
	// serve PROVIDER: its consumers and its empty register.
	"serve": func(ts *testscript.TestScript, _ bool, args []string) {
		s := stageOf(ts)
		err := broker.ServeProvider(context.Background(), s.JS, args[0], broker.Held(120))
		ts.Check(err)
		ts.Check(budget.CreateRegister(context.Background(), s.KV, args[0]))
	},
	// spend PROVIDER LIMITS N: N permits taken.
	"spend": func(ts *testscript.TestScript, _ bool, args []string) {
		s := stageOf(ts)
		limits, err := ledger.ParseLimits(args[1])
		ts.Check(err)
		gate, err := budget.Open(context.Background(), s.JS, s.KV, budget.Settings{Provider: args[0], Worker: "w-1", Limits: limits}, func(budget.Event) {})
		ts.Check(err)
		defer gate.Close()
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		for range n {
			permit, err := gate.Acquire(context.Background(), turns.Ask{Lane: budget.LaneOf(fetchworker.LaneInteractive), Alone: true})
			ts.Check(err)
			ts.Check(permit.Start())
			permit.Done(budget.Report{Outcome: budget.Success})
		}
	},
	// circuit PROVIDER STATE FOR [OPERATION]: the circuit's record.
	"circuit": func(ts *testscript.TestScript, _ bool, args []string) {
		d, err := time.ParseDuration(args[2])
		ts.Check(err)
		record := circuit.Record{Circuit: circuit.Circuit{
			State: circuit.State(args[1]), OpenedAt: time.Now(), OpenUntil: time.Now().Add(d), Why: "3 different requests failed in a row",
		}}
		if len(args) > 3 {
			record = circuit.Record{Operations: []circuit.Operation{{Name: args[3], Circuit: record.Circuit}}}
		}
		value, err := record.Encode()
		ts.Check(err)
		_, err = stageOf(ts).KV.Put(context.Background(), "circuit."+args[0], value)
		ts.Check(err)
	},
	// request PROVIDER LANE AGENT N: requests in the queue.
	"request": func(ts *testscript.TestScript, _ bool, args []string) {
		n, err := strconv.Atoi(args[3])
		ts.Check(err)
		for range n {
			_, err := stageOf(ts).JS.Publish(context.Background(), fetchworker.RequestSubject(args[0], fetchworker.Lane(args[1]), "quote", args[2]), []byte(`{}`))
			ts.Check(err)
		}
	},
	// invented N: requests for so many providers that nobody serves.
	"invented": func(ts *testscript.TestScript, _ bool, args []string) {
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		for i := range n {
			_, err := stageOf(ts).JS.Publish(context.Background(), fetchworker.RequestSubject("invented-"+strconv.Itoa(i), "batch", "quote", "mallory"), []byte(`{}`))
			ts.Check(err)
		}
	},
	// bytes PROVIDER N: bytes on this month's counter.
	"bytes": func(ts *testscript.TestScript, _ bool, args []string) {
		m := nats.NewMsg(wire.BytesSubject(args[0], time.Now()))
		m.Header.Set("Nats-Incr", "+"+args[1])
		_, err := stageOf(ts).JS.PublishMsg(context.Background(), m)
		ts.Check(err)
	},
	// bounded STREAM: a limit of bytes that it has just reached.
	"bounded": func(ts *testscript.TestScript, _ bool, args []string) {
		s := stageOf(ts)
		stream, err := s.JS.Stream(context.Background(), args[0])
		ts.Check(err)
		config := stream.CachedInfo().Config
		config.MaxBytes = int64(stream.CachedInfo().State.Bytes) // small
		_, err = s.JS.UpdateStream(context.Background(), config)
		ts.Check(err)
	},
	// counted SUBJECT=N …: increments of the ledger's counters; TODAY in a
	// subject is this UTC day, YESTERDAY and 30DAYS are earlier ones.
	"counted": func(ts *testscript.TestScript, _ bool, args []string) {
		day := func(ago int) string { return time.Now().UTC().AddDate(0, 0, -ago).Format(time.DateOnly) }
		days := strings.NewReplacer("TODAY", day(0), "YESTERDAY", day(1), "30DAYS", day(30))
		for _, arg := range args {
			subject, n, _ := strings.Cut(arg, "=")
			m := nats.NewMsg("fetch." + days.Replace(subject))
			m.Header.Set("Nats-Incr", "+"+n)
			_, err := stageOf(ts).JS.PublishMsg(context.Background(), m)
			ts.Check(err)
		}
	},
	// quota PROVIDER LIMIT: what a worker tells when 70 % are used.
	"quota": func(ts *testscript.TestScript, _ bool, args []string) {
		limit, err := strconv.ParseInt(args[1], 10, 64)
		ts.Check(err)
		ts.Check(dlq.Emit(context.Background(), stageOf(ts).log, dlq.Event{
			Kind: budget.KindBudget, Provider: args[0], ID: "70", Time: time.Now(), Data: budget.Event{Kind: budget.KindBudget, Limit: limit, Percent: 70},
		}))
	},
	// streams FILE: the number of messages and the last sequence of every
	// stream, to see that nothing was changed.
	"streams": func(ts *testscript.TestScript, _ bool, args []string) {
		s := stageOf(ts)
		var lines []string
		for _, config := range broker.Streams(broker.Options{}) {
			stream, err := s.JS.Stream(context.Background(), config.Name)
			ts.Check(err)
			state := stream.CachedInfo().State
			lines = append(lines, fmt.Sprintf("%s %d %d %d", config.Name, state.Msgs, state.LastSeq, state.Bytes))
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	},
	// holds STREAM N: how many messages it holds, soon.
	"holds": func(ts *testscript.TestScript, _ bool, args []string) {
		s := stageOf(ts)
		var have string
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			stream, err := s.JS.Stream(context.Background(), args[0])
			ts.Check(err)
			if have = strconv.FormatUint(stream.CachedInfo().State.Msgs, 10); have == args[1] {
				return
			}
		}
		ts.Fatalf("%s holds %s, want %s", args[0], have, args[1])
	},
	// stored [key=value …]: prints the stored answer of a request.
	"stored": func(ts *testscript.TestScript, _ bool, args []string) {
		l := pairsOf(args).letter(ts, 1)
		m, err := stageOf(ts).log.Get(context.Background(), answer.Slot(l.Identity))
		ts.Check(err)
		var lines []string
		for _, key := range slices.Sorted(maps.Keys(m.Header)) {
			lines = append(lines, key+": "+m.Header.Get(key))
		}
		ts.Check(os.WriteFile(ts.MkAbs("stored"), []byte(strings.Join(lines, "\n")+"\n"+string(m.Data)+"\n"), 0o600))
	},
	// fleet PROVIDER [fail=ID-PREFIX]: a replayer and a worker that answers.
	"fleet": startFleet,
}

// startFleet runs the real replayer, and a worker that answers what it is
// handed with ok, or, where the id begins with fail=, with another letter.
func startFleet(ts *testscript.TestScript, _ bool, args []string) {
	stop, err := stageOf(ts).fleet(args[0], pairsOf(args[1:]).text("fail", "no id begins like this"))
	ts.Check(err)
	ts.Defer(stop)
}

func (s *stage) fleet(provider, fails string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	live := fleet.Worker{Name: "w-1", Providers: []string{provider}}
	err = errors.Join(broker.ServeProvider(ctx, s.JS, provider, broker.Held(120)), fleet.Beat(ctx, s.JS, live))
	if err != nil {
		cancel()
		return nil, err
	}
	board, err := fleet.Watch(ctx, s.JS, s.KV)
	if err != nil {
		cancel()
		return nil, err
	}
	replayer := dlq.NewReplayer(s.JS, s.log, board, dlq.Config{
		Consumer: broker.ReplayerConsumer, ReplayConsumer: broker.ReplayConsumer,
		Retries: 3, MaxLife: 72 * time.Hour, Logger: zap.NewNop(),
	})
	var running sync.WaitGroup
	running.Go(func() { fleet.Present(ctx, s.JS, s.KV, live, nil) })
	running.Go(func() { _ = replayer.Run(ctx) })
	running.Go(func() { s.work(ctx, provider, fails) })
	return sync.OnceFunc(func() { cancel(); running.Wait(); board.Close() }), nil
}

func (s *stage) work(ctx context.Context, provider, fails string) {
	consumer, err := s.JS.Consumer(ctx, wire.StreamReplay, broker.ReplayConsumer(provider))
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		batch, err := consumer.FetchNoWait(32)
		if err != nil {
			return
		}
		for m := range batch.Messages() {
			s.answer(ctx, m, fails)
		}
		_ = wait.For(ctx, 5*time.Millisecond)
	}
}

func (s *stage) answer(ctx context.Context, m jetstream.Msg, fails string) {
	l, err := dlq.Decode(m.Subject(), m.Headers(), m.Data())
	if err != nil {
		return
	}
	// A letter can come twice, where the word of its release was long in coming:
	// as a worker does with all that is replayed, it looks before it calls.
	if stands, err := answer.New(s.log).Read(ctx, l.Identity); err != nil {
		return
	} else if stands.Ends(l.Generation) {
		_ = m.Ack()
		return
	}
	if s.calls != nil {
		s.calls[l.ID]++
	}
	l.Calls++
	if strings.HasPrefix(l.ID, fails) {
		l.NotBefore = time.Now().Add(time.Hour)
		err = dlq.Put(ctx, s.log, l)
	} else {
		_, _, err = answer.New(s.log).Put(ctx, fetchworker.Answer{Identity: l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: l.Generation, Calls: l.Calls}, "")
	}
	if err == nil {
		_ = m.Ack()
	}
}
