package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/usage"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// TestAWorkerKilledMidCallIsReplaced kills a worker when its call has reached
// the provider and before the answer is there. That call is all that the ledger
// is short of.
func TestAWorkerKilledMidCallIsReplaced(t *testing.T) {
	begin(t)
	f := newFleet(t, well(time.Second))
	first := f.worker()
	const before = 10
	for i := range before {
		f.quote("bob", fmt.Sprint("B", i))
	}
	until(t, 30*time.Second, "the ledger has what was called", func() bool { return f.used("bob", usage.Calls) == before })
	id := f.quote("alice", "AAPL")
	f.called("AAPL", 1)
	first.kill()
	killed := time.Now()
	f.worker()
	a := f.final(id, 20*time.Second)
	took := time.Since(killed)
	t.Logf("answered %v after the kill", took)
	// Ten seconds of silence, the call, and a little for a machine at work.
	if a.Status != fetchworker.StatusOK || took > 13*time.Second {
		t.Errorf("%v after the kill: %s", took, dlqtest.Describe(a))
	}
	f.settled(5 * time.Second)
	if n := len(f.answers.Answers(id)); n != 1 || f.count(fetchworker.StreamResults) != 1+before {
		t.Errorf("%d answers were stored", n)
	}
	if n := len(f.calls("AAPL")); n != 2 {
		t.Errorf("%d calls", n)
	}
	// All but the one that was in flight, and no more: sums are stored one by one.
	short := func() int { return len(f.upstream.Calls()) - f.used("alice", usage.Calls) - f.used("bob", usage.Calls) }
	until(t, 10*time.Second, "the ledger has all calls but the one in flight at the kill", func() bool { return short() == 1 })
	until(t, 10*time.Second, "and the answer", func() bool { return f.used("alice", usage.OK) == 1 })
	if n := short(); n != 1 {
		t.Errorf("the ledger is short by %d calls", n)
	}
}

// used is what the ledger has of an agent's today.
func (f *fleet) used(agent, what string) (n int) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
	defer cancel()
	s, err := f.js.Stream(ctx, wire.StreamUsage)
	if err != nil {
		return -1
	}
	for _, day := range []time.Time{time.Now().Add(-time.Minute), time.Now()} { // it may be midnight
		m, err := s.GetLastMsgForSubject(ctx, wire.UsageSubject("fmp", agent, day, what))
		if err != nil {
			continue
		}
		var one int
		if _, err := fmt.Sscanf(string(m.Data), `{"val":"%d"}`, &one); err == nil && (n == 0 || day.UTC().Day() != time.Now().Add(-time.Minute).UTC().Day()) {
			n += one
		}
	}
	return n
}

// unreliable is a provider that fails in every way there is, now and then.
func unreliable(*http.Request) *providertest.Step {
	step := providertest.JSON(http.StatusOK, aQuote)
	step.Latency = time.Duration(rand.IntN(60)) * time.Millisecond
	switch n := rand.IntN(100); {
	case n < 8:
		step.Status, step.Body = http.StatusInternalServerError, []byte("boom")
	case n < 12:
		step.Latency = time.Minute // longer than anybody waits
	case n < 15:
		step.Cut = 10
	case n < 17:
		step.Cut = -1
	case n < 18:
		step.Status, step.Body = http.StatusTooManyRequests, []byte(`{"Error Message":"slow down"}`)
		step.Header.Set("Retry-After", "1")
	}
	return &step
}

// TestNothingIsLostUnderKillsAndAnUnreliableProvider kills one of four
// processes each half second, at random, while requests come in and fail.
func TestNothingIsLostUnderKillsAndAnUnreliableProvider(t *testing.T) {
	begin(t)
	requests, pace := pick(300, 3000), pick(25*time.Millisecond, 20*time.Millisecond)
	f := newFleet(t, unreliable)
	// Short times, so that every mechanism gets its turn in between the kills.
	f.env["FMP_TIMEOUT_SECONDS"], f.env["FETCH_RETRY_BASE_SECONDS"], f.env["FETCH_CIRCUIT_OPEN_SECONDS"] = "0.5", "0.2", "1"
	names := []string{"worker", "worker", "worker", "replayer"}
	var processes []*process
	for _, name := range names {
		processes = append(processes, f.spawn(name))
	}
	var publishing errgroup.Group
	var published atomic.Bool
	publishing.Go(func() error {
		defer published.Store(true)
		for i := range requests {
			lane := []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch}[i%2]
			r := fetchworker.Request{Provider: "fmp", Operation: "quote", Lane: lane, Agent: fmt.Sprint("agent-", i%40)}
			if err := f.ask(r, fmt.Sprint("S", i)); err != nil {
				return err
			}
			time.Sleep(pace)
		}
		return nil
	})
	kills := 0
	for !published.Load() {
		time.Sleep(500 * time.Millisecond)
		victim := rand.IntN(len(processes))
		processes[victim].kill()
		processes[victim] = f.spawn(names[victim])
		kills++
	}
	if err := publishing.Wait(); err != nil {
		t.Fatal(err)
	}
	last := time.Now()
	f.settled(pick(90*time.Second, 3*time.Minute))
	t.Logf("%d requests, %d kills, %d calls, all over %v after the last kill: %v", requests, kills, len(f.upstream.Calls()), time.Since(last), f.statuses())
}

// TestWhatKillsItsWorkerEndsAsPoison has a request at whose call the worker's
// process dies: the provider knows each worker by its key, and kills it. Its
// fifteen neighbours are in flight each time, and must not be buried with it.
func TestWhatKillsItsWorkerEndsAsPoison(t *testing.T) {
	begin(t)
	var mu sync.Mutex
	byKey := map[string]*process{}
	f := newFleet(t, func(r *http.Request) *providertest.Step {
		step := *well(300 * time.Millisecond)(r)
		if path.Base(r.URL.Path) == "KILL" {
			mu.Lock()
			victim := byKey[r.URL.Query().Get("apikey")]
			mu.Unlock()
			// Late enough for the neighbours' calls to be under way.
			time.AfterFunc(150*time.Millisecond, func() { _ = victim.cmd.Process.Kill() })
			step.Latency = time.Minute
		}
		return &step
	})
	f.replayer()
	newWorker := func() *process {
		key := aKey + "-" + strconv.Itoa(f.started)
		mu.Lock()
		defer mu.Unlock()
		byKey[key] = f.spawn("worker", "FMP_API_KEY", key)
		return byKey[key]
	}
	worker := newWorker()
	worker.says(t, `"serving"`)
	if !full {
		// The short form starts at the killer's sixth delivery and its third run
		// alone: ten seconds of waiting for each that came before.
		worker.signal(t, syscall.SIGTERM)
		worker.ended(t, 10*time.Second)
	}
	killer := f.quote("alice", "KILL")
	var others []fetchworker.Identity
	for i := range 15 {
		others = append(others, f.quote("alice", fmt.Sprint("S", i)))
	}
	if !full {
		f.handBack(16, 5)
		f.suspect("2")
		worker = newWorker()
	}
	deaths := 0
	until(t, 3*time.Minute, "the killer has an answer", func() bool {
		if worker.gone() {
			if deaths++; deaths > 12 {
				t.Fatal("there is no end to it")
			}
			worker = newWorker()
		}
		return slices.ContainsFunc(f.answers.Answers(killer), func(a fetchworker.Answer) bool { return a.Final })
	})
	if a := f.final(killer, 10*time.Second); a.Problem == nil || a.Problem.Code() != fetchworker.CodePoison || !a.Review {
		t.Errorf("the killer: %s", dlqtest.Describe(a))
	}
	for _, id := range others {
		if a := f.final(id, 30*time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%s: %s", id, dlqtest.Describe(a))
		}
	}
	f.settled(10 * time.Second)
	if n := f.count(wire.StreamReview); n != 1 {
		t.Errorf("%d in review", n)
	}
	t.Logf("%d processes died of it", deaths)
}

// handBack has the first n requests delivered and handed back so often, as by
// workers that die with them.
func (f *fleet) handBack(n, times int) {
	t, ctx := f.t, f.t.Context()
	t.Helper()
	stream, err := f.js.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	address, err := wire.ParseSubject(m.Subject)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateOrUpdateConsumer(ctx, broker.RequestConsumer("fmp", address.Lane, address.Shard, n))
	if err != nil {
		t.Fatal(err)
	}
	for range times {
		var held []jetstream.Msg
		until(t, 10*time.Second, "all are delivered", func() bool {
			batch, err := consumer.Fetch(n-len(held), jetstream.FetchMaxWait(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				held = append(held, m)
			}
			return len(held) == n
		})
		for _, m := range held {
			if err := m.Nak(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// suspect notes lone runs of the first request that did not come back.
func (f *fleet) suspect(deaths string) {
	f.t.Helper()
	kv, err := f.js.KeyValue(f.t.Context(), wire.BucketProviders)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := kv.PutString(f.t.Context(), "suspect."+fetchworker.StreamRequests+".1", deaths); err != nil {
		f.t.Fatal(err)
	}
}
