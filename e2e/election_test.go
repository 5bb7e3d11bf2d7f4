package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// beyondElection is what a first request may take more than the servers need to
// have leaders again.
const beyondElection = time.Second

// TestAFirstRequestOutlastsAnElection asks providers at rest while the leader of
// the requests' stream is killed, or steps down: just before, and in the middle
// of the request. Beside it, with nothing but the client library, is noted when
// the streams, the request's own consumer and a consumer of the test's have
// leaders again: that is what an election takes.
func TestAFirstRequestOutlastsAnElection(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("three servers that sync every write: with FETCH_CHAOS=full")
	}
	cases := []struct {
		dies  bool
		after time.Duration // of the request
	}{{true, 0}, {false, 0}, {true, 0}, {true, 4 * time.Millisecond}, {false, 4 * time.Millisecond}, {true, 20 * time.Millisecond}, {true, 60 * time.Millisecond}, {true, 0}}
	servers := threeServers(t)
	f := onServers(t, servers, 3)
	f.env["FETCH_CATALOG"] = providersAtRest(t, f.upstream.URL(), len(cases)+1)
	worker := f.worker()
	agent, err := f.agent("alice")
	if err != nil {
		t.Fatal(err)
	}
	type asked struct{ stored, answered time.Time }
	ask := func(n int) (when asked, a fetchworker.Answer, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := fetchworker.Request{Provider: atRest(n), Operation: "quote", Agent: "alice", ID: fmt.Sprint("S", n), Params: params("fmp", fmt.Sprint("S", n))}
		receipt, err := agent.Submit(ctx, r)
		if err != nil {
			return when, a, err
		}
		when.stored = time.Now()
		a, err = agent.Wait(ctx, receipt.Identity)
		when.answered = time.Now()
		return when, a, err
	}
	if _, _, err := ask(len(cases)); err != nil {
		t.Fatal(err)
	}
	shard := f.shardOf(atRest(len(cases)))
	for n, c := range cases {
		until(t, time.Minute, "the cluster is whole", f.whole)
		leader := f.leader(servers)
		led := f.led(leader)
		stay := servers
		if c.dies {
			stay = slices.DeleteFunc(slices.Clone(servers), func(s *natsServer) bool { return s == leader })
		}
		e := meetElectorate(t, stay)
		change := func() {
			if c.dies {
				leader.kill()
			} else if m, err := f.js.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+fetchworker.StreamRequests, nil, 5*time.Second); err != nil || !strings.Contains(string(m.Data), `"success":true`) {
				t.Errorf("step down: %v", err)
			}
			e.begin(atRest(n), shard, n)
		}
		var changing sync.WaitGroup
		if c.after == 0 {
			change()
		} else {
			changing.Go(func() {
				time.Sleep(c.after)
				change()
			})
		}
		when, a, err := ask(n)
		changing.Wait()
		if err != nil {
			t.Fatal(err)
		}
		e.end()
		since := func(at time.Time) time.Duration { return at.Sub(e.began).Round(time.Millisecond) }
		calls := f.calls(fmt.Sprint("S", n))
		var called []time.Duration
		for _, c := range calls {
			called = append(called, since(c.At))
		}
		// The leader of the request's own consumer is drawn by lot, and counts from
		// when the consumer was made; that it was made late is ours.
		own := e.at["consumer"] - max(since(e.made)-since(e.bareMade), 0)
		beyond := since(when.answered) - max(own, e.last("requests", "results", "registers", "bare consumer"))
		what := map[bool]string{true: "is killed", false: "steps down"}[c.dies]
		t.Logf("%d: %s %s %v after the request; it led %v\n  leaders again: %v\n  ours: stored %v, called %v, answered %v\n  beyond the last of them, and %v of its own consumer: %v",
			n, leader.name, what, c.after, led, e, since(when.stored), called, since(when.answered), own, beyond)
		if a.Status != fetchworker.StatusOK || len(calls) != 1 {
			t.Errorf("%s after %d calls", a.Status, len(calls))
		}
		if beyond > beyondElection {
			t.Errorf("the first request took %v more than the election\n%s", beyond, worker.log.tail(12))
		}
		if c.dies {
			leader.start(t)
		}
	}
}

// shardOf is the shard of the one agent that has asked a provider.
func (f *fleet) shardOf(provider string) string {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), fetchworker.StreamRequests)
	if err != nil {
		f.t.Fatal(err)
	}
	names := s.ConsumerNames(f.t.Context())
	for name := range names.Name() {
		if shard, found := strings.CutPrefix(name, provider+"-interactive-"); found {
			return shard
		}
	}
	f.t.Fatalf("%s has no consumer: %v", provider, names.Err())
	return ""
}

// led are the streams that a server leads, and "servers" if it leads these.
func (f *fleet) led(leader *natsServer) (led []string) {
	f.t.Helper()
	streams := f.js.ListStreams(f.t.Context())
	for info := range streams.Info() {
		if info.Cluster != nil && info.Cluster.Leader == leader.name {
			led = append(led, strings.TrimPrefix(strings.TrimPrefix(info.Config.Name, "FETCH_"), "KV_fetch_"))
		}
	}
	if err := streams.Err(); err != nil {
		f.t.Fatal(err)
	}
	slices.Sort(led)
	return led
}

// electorate are servers that are asked again and again whether something has
// its leader, over connections that no election takes away.
type electorate struct {
	t           *testing.T
	admin, user *nats.Conn
	began       time.Time
	stop        context.CancelFunc
	asking      sync.WaitGroup

	mu   sync.Mutex
	at   map[string]time.Duration
	made time.Time // when the servers agreed on the request's consumer

	bareMade time.Time // and when on the test's
}

func meetElectorate(t *testing.T, servers []*natsServer) *electorate {
	t.Helper()
	connect := func(user string) *nats.Conn {
		nc, err := nats.Connect(urls(t, servers, user), nats.CustomInboxPrefix("_INBOX_"+user), nats.DontRandomize(), nats.IgnoreDiscoveredServers())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	return &electorate{t: t, admin: connect("admin"), user: connect("alice"), at: map[string]time.Duration{}}
}

// begin asks from now on.
func (e *electorate) begin(provider, shard string, round int) {
	e.began = time.Now()
	ctx, stop := context.WithTimeout(e.t.Context(), time.Minute)
	e.stop = stop
	for what, stream := range map[string]string{"requests": fetchworker.StreamRequests, "results": fetchworker.StreamResults, "registers": "KV_" + wire.BucketProviders, "cache": "KV_" + wire.BucketCache} {
		e.asks(ctx, what, "$JS.API.STREAM.INFO."+stream)
	}
	e.asks(ctx, "consumer", "$JS.API.CONSUMER.INFO."+fetchworker.StreamRequests+"."+provider+"-interactive-"+shard)
	e.asking.Go(func() { e.bare(ctx, fmt.Sprint("bare", round)) })
}

// asks notes when a question has its answer, which only a leader gives.
func (e *electorate) asks(ctx context.Context, what, question string) {
	e.asking.Go(func() {
		for ctx.Err() == nil {
			m, err := e.admin.Request(question, nil, 100*time.Millisecond)
			var said struct {
				Error   *jetstream.APIError `json:"error"`
				Created time.Time           `json:"created"`
				Cluster struct {
					Leader string `json:"leader"`
				} `json:"cluster"`
			}
			if err == nil && json.Unmarshal(m.Data, &said) == nil && said.Error == nil && said.Cluster.Leader != "" {
				if e.note(what); what == "consumer" {
					e.made = said.Created
				}
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// bare does what a request does until it is in somebody's hands: it is stored,
// a consumer is made for it, and gives it. Each step is tried again soon.
func (e *electorate) bare(ctx context.Context, provider string) {
	user, err := jetstream.New(e.user)
	if err != nil {
		e.t.Error(err)
		return
	}
	admin, err := jetstream.New(e.admin)
	if err != nil {
		e.t.Error(err)
		return
	}
	var consumer jetstream.Consumer
	for _, step := range []struct {
		what string
		try  func(context.Context) error
	}{
		{"bare stored", func(ctx context.Context) error {
			_, err := user.Publish(ctx, fetchworker.RequestSubject(provider, fetchworker.LaneInteractive, "quote", "alice"), []byte("{}"), jetstream.WithMsgID(provider), jetstream.WithRetryAttempts(0))
			return err
		}},
		{"bare consumer", func(ctx context.Context) (err error) {
			consumer, err = admin.CreateOrUpdateConsumer(ctx, fetchworker.StreamRequests, jetstream.ConsumerConfig{
				Durable: provider, FilterSubject: "fetch.request." + provider + ".>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: broker.AckWait,
			})
			if err == nil {
				e.bareMade = consumer.CachedInfo().Created
			}
			return err
		}},
		{"bare given", func(context.Context) error {
			m, err := consumer.Next(jetstream.FetchMaxWait(time.Second))
			if err != nil {
				return err
			}
			return m.DoubleAck(ctx)
		}},
	} {
		for ctx.Err() == nil {
			trying, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			err := step.try(trying)
			cancel()
			if err == nil {
				e.note(step.what)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (e *electorate) note(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at[what] = time.Since(e.began).Round(time.Millisecond)
}

// end waits until all have their leaders.
func (e *electorate) end() {
	e.asking.Wait()
	e.stop()
	e.admin.Close()
	e.user.Close()
}

// last is when the last of some had its leader.
func (e *electorate) last(of ...string) (last time.Duration) {
	for _, what := range of {
		at, ok := e.at[what]
		if !ok {
			e.t.Errorf("%s has no leader", what)
		}
		last = max(last, at)
	}
	return last
}

func (e *electorate) String() string {
	var all []string
	for what, at := range e.at {
		all = append(all, fmt.Sprint(what, " ", at))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
