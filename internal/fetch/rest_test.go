package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// consumers counts those of the two queues.
func (r *rig) consumers() (n int) {
	r.t.Helper()
	for _, name := range []string{fetchworker.StreamRequests, wire.StreamReplay} {
		s, err := r.b.JS.Stream(context.Background(), name)
		if err != nil {
			r.t.Fatal(err)
		}
		n += s.CachedInfo().State.Consumers
	}
	return n
}

// promptly bounds what a request to a provider at rest may take, on a clock
// that does not count the machine's own work.
const promptly = 100 * time.Millisecond

// TestConsumersComeAndGo: there are none where nothing is; what comes after a
// while is answered as soon as ever.
func TestConsumersComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.start(nil)()
		defer r.start(nil)()
		time.Sleep(5 * time.Second)
		if n := r.consumers(); n != 0 {
			t.Errorf("%d consumers before anything came", n)
		}
		for round := range 2 {
			r.final(r.quote("alice", fmt.Sprint("a", round), "A", `,"max_age":"0s"`), promptly)
			if n := r.consumers(); n != 1 {
				t.Errorf("%d consumers for one agent", n)
			}
			time.Sleep(20 * time.Minute)
			if n := r.consumers(); n != 0 {
				t.Errorf("%d consumers after a time of rest", n)
			}
		}
		if strings.Contains(r.logs.String(), "made again") {
			t.Error("what the server took away in its time is told as an accident")
		}
	})
}

// TestAThousandAgentsLeaveNothing asks one provider for a thousand agents in
// turn. An hour later there are no consumers, and what worker and server hold
// and say to each other is what it was before the first of them. (In e2e it is
// processes, with shorter times.)
func TestAThousandAgentsLeaveNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		worker, stop := r.startWorker(nil)
		defer stop()
		r.final(r.quote("first", "q", "A", ""), promptly)
		time.Sleep(20 * time.Minute)
		before := r.atRest(worker)
		answers := make(chan *nats.Msg, 8)
		live, err := r.b.NC.ChanSubscribe("fetch.result.>", answers)
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for agent := range 1000 {
			r.quote(fmt.Sprint("agent-", agent), "q", "A", "")
			select {
			case <-answers:
			case <-time.After(promptly): //nolint:forbidigo // bounded, in a bubble
				t.Fatalf("agent %d has no answer", agent)
			}
			time.Sleep(10 * time.Millisecond)
			if agent%100 == 99 {
				most = max(most, r.consumers())
			}
		}
		if err := live.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		// The answers are kept; here that is in memory.
		kept, err := r.b.JS.Stream(t.Context(), fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		if n := kept.CachedInfo().State.Msgs; n != 1001 {
			t.Errorf("%d answers", n)
		}
		if err := kept.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := r.atRest(worker)
		t.Logf("before: %v; at most %d consumers; after: %v", before, most, after)
		if most != wire.Shards {
			t.Errorf("%d consumers for a thousand agents of one lane", most)
		}
		if after.consumers != 0 || after.goroutines > before.goroutines+5 || after.messages > before.messages*1.1 || after.heap > before.heap+2<<20 {
			t.Errorf("before a thousand agents %v, an hour after them %v", before, after)
		}
	})
}

// restful is what a worker and its server have and do while nobody asks.
type restful struct {
	consumers, goroutines, heap int
	messages                    float64 // a second
}

func (r restful) String() string {
	return fmt.Sprintf("%d consumers, %d goroutines, %d KiB, %.2f messages a second", r.consumers, r.goroutines, r.heap>>10, r.messages)
}

// atRest watches the worker of a connection for two minutes.
func (r *rig) atRest(worker *nats.Conn) (is restful) {
	r.t.Helper()
	said := func() uint64 {
		s := worker.Stats()
		return s.InMsgs + s.OutMsgs
	}
	const long = 2 * time.Minute
	is.consumers = r.consumers()
	from := said()
	time.Sleep(long)
	is.messages = float64(said()-from) / long.Seconds()
	synctest.Wait()
	runtime.GC()
	runtime.GC() // what pools keep goes with the second
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	is.goroutines, is.heap = runtime.NumGoroutine(), int(memory.HeapAlloc)
	return is
}

// TestALaneWakesUnderLoad: many messages of a lane at rest, for all of its
// shards, and nobody waits; the other lane stays at rest.
func TestALaneWakesUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.start(nil)()
		time.Sleep(time.Second)
		var all []fetchworker.Identity
		for agent := range 200 {
			all = append(all, r.quote(fmt.Sprint("agent-", agent), "q", "A", `,"max_age":"0s"`))
		}
		for _, id := range all {
			r.final(id, time.Second)
		}
		if n := r.consumers(); n != wire.Shards {
			t.Errorf("%d consumers", n)
		}
		if n := len(r.upstream.Calls()); n > len(all) {
			t.Errorf("%d calls for %d requests", n, len(all))
		}
	})
}

// TestWhatWaitsIsFoundAtAStart: requests and letters that came while there was
// no worker for so long that no consumer was left.
func TestWhatWaitsIsFoundAtAStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.start(nil)()
		time.Sleep(time.Minute)
		var all []fetchworker.Identity
		for agent := range 20 {
			all = append(all, r.quote(fmt.Sprint("agent-", agent), "q", "A", ""))
		}
		defer r.start(nil)()
		for _, id := range all {
			r.final(id, 2*time.Second)
		}
	})
}

// TestWhatAnotherHeldIsTaken: a worker that holds a request for longer than
// anything else keeps a shard awake is cut off. The other, which has heard of
// nothing since, takes it over.
func TestWhatAnotherHeldIsTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.env["FMP_TIMEOUT_SECONDS"] = "300"
		calls := make(chan struct{}, 2)
		var made atomic.Int32
		r.upstream.Fallback = func(*http.Request) *providertest.Step {
			calls <- struct{}{}
			step := providertest.JSON(200, aapl)
			if made.Add(1) == 1 {
				step.Latency = 4 * time.Minute
			}
			return &step
		}
		nc, stop := r.startWorker(nil)
		id := r.quote("alice", "q", "A", "")
		<-calls
		defer r.start(nil)()
		time.Sleep(2 * time.Minute)
		nc.Close()
		r.final(id, broker.AckWait+3*time.Second)
		stop()
	})
}

// TestAnEarlierConsumersDeliveryIsNotCalledAgain: an answer was stored and its
// acknowledgement lost, and then the consumer that knew of the delivery went.
func TestAnEarlierConsumersDeliveryIsNotCalledAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		stop := r.start(nil)
		stop()
		r.ask("fetch.request.fmp.interactive.quote.alice", "", `{"params":{"symbol":"A"}}`)
		raw, err := record.New(r.b.JS, nil).Next(t.Context(), fetchworker.StreamRequests, "fetch.request.>", 1)
		if err != nil {
			t.Fatal(err)
		}
		id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: wire.ResolveID("", "", raw.Sequence, raw.Time)}
		if _, _, err := answer.New(record.New(r.b.JS, nil)).Put(t.Context(), fetchworker.Answer{
			Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: 1, ContentType: "application/json", Body: []byte(aapl),
		}, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		defer r.start(nil)()
		r.drained(fetchworker.StreamRequests, 0, 5*time.Second)
		if n := len(r.upstream.Calls()); n != 0 {
			t.Errorf("%d calls for a request that has its answer", n)
		}
	})
}

// TestWorkersOfAnEarlierVersionBeside: with requests waiting, both take from the
// consumers that the earlier one made. When it is gone they go.
func TestWorkersOfAnEarlierVersionBeside(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		for stream, configs := range broker.ProviderConsumers("fmp", 256) {
			for _, c := range configs {
				c.InactiveThreshold = 0
				if _, err := r.b.JS.CreateConsumer(t.Context(), stream, c); err != nil {
					t.Fatal(err)
				}
			}
		}
		var all []fetchworker.Identity
		ask := func() {
			for n := range 40 {
				all = append(all, r.quote(fmt.Sprint("agent-", n), fmt.Sprint("q-", len(all)), fmt.Sprint("S", len(all)), ""))
			}
		}
		ask()
		r.earlier = true
		stop := r.start(nil)
		r.earlier = false
		defer r.start(nil)()
		ask()
		// Those of the shards that were asked have been adopted by that.
		if n, err := broker.Adopt(t.Context(), r.b.JS, func(string) bool { return true }); n < wire.Shards+1 || err != nil {
			t.Errorf("%d consumers were adopted: %v", n, err)
		}
		time.Sleep(20 * time.Minute)
		if n := r.consumers(); n != 2*wire.Shards+1 {
			t.Errorf("%d consumers while a worker asks them", n)
		}
		ask()
		time.Sleep(time.Second)
		stop()
		ask()
		for _, id := range all {
			r.final(id, 2*time.Second)
		}
		if n := len(r.upstream.Calls()); n != len(all) {
			t.Errorf("%d calls for %d requests", n, len(all))
		}
		time.Sleep(20 * time.Minute)
		if n := r.consumers(); n != 0 {
			t.Errorf("%d consumers are left", n)
		}
	})
}

// TestNothingIsLostWhileConsumersComeAndGo: three workers, of which one is cut
// off and replaced every few seconds, a replayer, agents that ask now and then,
// calls that fail at first; shards rest and consumers go after a second.
func TestNothingIsLostWhileConsumersComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.rest, r.circuit = time.Second, 0
		var mu sync.Mutex
		calls := map[string]int{}
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			mu.Lock()
			defer mu.Unlock()
			calls[q.URL.Path]++
			step := providertest.JSON(200, aapl)
			if strings.HasSuffix(q.URL.Path, "7") && calls[q.URL.Path] == 1 {
				step = providertest.JSON(500, "boom")
			}
			return &step
		}
		type worker struct {
			nc   *nats.Conn
			stop func()
		}
		start := func() worker {
			nc, stop := r.startWorker(nil)
			return worker{nc, stop}
		}
		workers := []worker{start(), start(), start()}
		stopReplayer := r.startReplayer(nil)
		var all []fetchworker.Identity
		var gone []func()
		most, least := 0, 100
		for round := range 40 {
			for range rand.IntN(6) {
				all = append(all, r.quote(fmt.Sprint("agent-", rand.IntN(50)), fmt.Sprint("q-", len(all)), fmt.Sprint("S", len(all)), ""))
				time.Sleep(rand.N(300 * time.Millisecond))
			}
			time.Sleep(rand.N(4 * time.Second))
			if round%4 == 3 {
				w := workers[0]
				w.nc.Close()
				gone = append(gone, w.stop)
				workers = append(workers[1:], start())
			}
			n := r.consumers()
			most, least = max(most, n), min(least, n)
		}
		for i, id := range all {
			r.final(id, 30*time.Second)
			want := 1
			if strings.HasSuffix(fmt.Sprint(i), "7") {
				want = 2
			}
			if n := calls[fmt.Sprint("/api/v3/quote/S", i)]; n != want {
				t.Errorf("%s: %d calls, want %d", id, n, want)
			}
		}
		if most == 0 || least > most/2 {
			t.Errorf("consumers did not come and go: %d to %d of them", least, most)
		}
		stopReplayer()
		for _, w := range workers {
			w.stop()
		}
		for _, stop := range gone {
			stop()
		}
	})
}

// TestStreamsOfAnEarlierVersion do not tell what comes: all consumers are kept,
// and nobody waits, until somebody brings the streams up to date.
func TestStreamsOfAnEarlierVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		for _, name := range []string{fetchworker.StreamRequests, wire.StreamReplay} {
			s, err := r.b.JS.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			config := s.CachedInfo().Config
			config.RePublish = nil
			if _, err := r.b.JS.UpdateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
		}
		defer r.start(nil)()
		time.Sleep(20 * time.Minute)
		if n := r.consumers(); n != 2*wire.Shards+1 {
			t.Errorf("%d consumers", n)
		}
		r.final(r.quote("alice", "before", "A", ""), promptly)
		if err := broker.Apply(t.Context(), r.b.JS, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
			t.Fatal(err)
		}
		r.b.Ageless(t)
		time.Sleep(20 * time.Minute)
		if n := r.consumers(); n != 0 {
			t.Errorf("%d consumers when the streams tell what comes", n)
		}
		r.final(r.quote("alice", "after", "B", ""), promptly)
	})
}

// TestWhereNobodyTakesRequestsAgentsAreTold: that workers hear of requests hides
// from no publisher that there is no stream.
func TestWhereNobodyTakesRequestsAgentsAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		defer r.start(nil)()
		time.Sleep(5 * time.Second)
		if err := r.b.JS.DeleteStream(t.Context(), fetchworker.StreamRequests); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := r.b.NC.RequestWithContext(ctx, "fetch.request.fmp.interactive.quote.alice", []byte(`{}`))
		if !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("a publish where no stream is: %v", err)
		}
	})
}

// TestAnAgentIsSoonBehindAnElection: while no server takes requests, an agent's is
// published again and again; it is stored soon after one does.
func TestAnAgentIsSoonBehindAnElection(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		nc := r.b.Connect(t)
		defer nc.Close()
		c, err := fetchworker.NewClient(nc, "alice")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, away := range []time.Duration{time.Second, 4 * time.Second, 9 * time.Second} {
			if err := r.b.JS.DeleteStream(t.Context(), fetchworker.StreamRequests); err != nil {
				t.Fatal(err)
			}
			stored := make(chan time.Time, 1)
			go func() {
				if _, err := c.Submit(t.Context(), fetchworker.Request{Provider: "fmp", Operation: "quote"}); err != nil {
					t.Error(err)
				}
				stored <- time.Now()
			}()
			time.Sleep(away)
			back := time.Now()
			if err := broker.Apply(t.Context(), r.b.JS, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
				t.Fatal(err)
			}
			if took := (<-stored).Sub(back); took > 500*time.Millisecond {
				t.Errorf("stored %v after somebody took it, %v having been away", took, away)
			}
		}
	})
}

// TestALookThatIsLostHoldsNoWait: a server that dies takes the first look of a
// wait with it; the answer comes live meanwhile.
func TestALookThatIsLostHoldsNoWait(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.start(nil)()
		var cable brokertest.Wire
		nc := r.b.ConnectThrough(t, &cable)
		defer nc.Close()
		c, err := fetchworker.NewClient(nc, "alice")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		receipt, err := c.Submit(t.Context(), fetchworker.Request{Provider: "fmp", Operation: "quote", Params: []byte(`{"symbol":"A"}`)})
		if err != nil {
			t.Fatal(err)
		}
		cable.Break("DIRECT.GET", brokertest.RequestLost, 1, 0)
		began := time.Now()
		a, err := c.Wait(t.Context(), receipt.Identity)
		if took := time.Since(began); err != nil || a.Status != fetchworker.StatusOK || took > 1500*time.Millisecond {
			t.Errorf("%s, %v after %v", a.Status, err, took)
		}
	})
}
