package nats_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/cancel"
	"fetchworker/internal/doctor"
	"fetchworker/internal/fetch"
	"fetchworker/internal/observe"
	"fetchworker/internal/operate"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// TestEveryoneMayDoTheirWorkAndNoMore runs the service as it is deployed: the
// topology made by the admin, a worker with the worker's credentials, and an
// agent in an account of her own.
func TestEveryoneMayDoTheirWorkAndNoMore(t *testing.T) {
	development(t)
	s := start(t, options(t, "server.conf"))
	applied(t, s, 1)

	upstream := play(t)
	large := `{"large":"` + strings.Repeat("x", fetchworker.MaxInlineBody) + `"}`
	serve(t, s, upstream)

	alice, err := fetchworker.NewClient(user(t, s, "alice"), "alice")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	t.Run("alice gets her answer live and stored", func(t *testing.T) {
		request := fetchworker.Request{Provider: "fred", Operation: "series", ID: "q-1", Params: params(`{"series_id":"GDP"}`), ReplyTo: "fetch.reply.alice.fred"}
		copies := subscribe(t, user(t, s, "alice"), "fetch.reply.alice.>")
		a, err := alice.Fetch(ctx, request)
		if err != nil || a.Status != fetchworker.StatusOK || len(a.Body) == 0 {
			t.Fatalf("%+v %v", a, err)
		}
		stored, err := alice.Result(ctx, a.Identity)
		if err != nil || string(stored.Body) != string(a.Body) {
			t.Errorf("direct get: %+v %v", stored, err)
		}
		if m, err := copies.NextMsg(10 * time.Second); err != nil || string(m.Data) != string(a.Body) {
			t.Errorf("copy: %v", err)
		}
	})

	t.Run("a large body comes in parts", func(t *testing.T) {
		upstream.Script(providertest.JSON(200, large))
		a, err := alice.Fetch(ctx, fetchworker.Request{Provider: "fred", Operation: "series", ID: "q-2", Params: params(`{"series_id":"LARGE"}`)})
		if err != nil || a.Claim == nil || len(a.Body) != len(large) {
			t.Errorf("%v %v, %d bytes", a.Status, err, len(a.Body))
		}
	})

	t.Run("a failure becomes a letter", func(t *testing.T) {
		upstream.Script(providertest.JSON(500, "{}"))
		if _, err := alice.Submit(ctx, fetchworker.Request{Provider: "fred", Operation: "series", ID: "q-3", Params: params(`{"series_id":"BROKEN"}`)}); err != nil {
			t.Fatal(err)
		}
		// The letter first, then the ack: only then does nothing move any more.
		operator := stream(t, user(t, s, "operator"))
		holds(t, operator, wire.StreamDLQ, 1)
		holds(t, operator, fetchworker.StreamRequests, 0)
	})

	t.Run("alice cancels her own, and nobody else's", func(t *testing.T) {
		named, err := alice.Cancel(ctx, fetchworker.Identity{Provider: "fred", Operation: "series", ID: "q-3"}, fetchworker.Identity{Provider: "fred", Operation: "series", ID: "q-1"})
		if err != nil || named != (fetchworker.Cancelled{Cancelled: 1, Final: 1}) {
			t.Errorf("%+v %v", named, err)
		}
		began := time.Now()
		if before, err := alice.CancelAll(ctx, fetchworker.CancelFilter{Provider: "fred"}); err != nil || before.Before(began.Add(-time.Second)) {
			t.Errorf("%v %v", before, err)
		}
		as, err := fetchworker.NewClient(user(t, s, "alice"), "bob")
		if err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if _, err := as.CancelAll(ctx, fetchworker.CancelFilter{Provider: "fred"}); !errors.Is(err, fetchworker.ErrNotPermitted) || time.Since(began) > 2*time.Second {
			t.Errorf("as bob: %v", err)
		}
		if _, err := as.Submit(ctx, fetchworker.Request{Provider: "fred", Operation: "series", Params: params(`{"series_id":"GDP"}`)}); !errors.Is(err, fetchworker.ErrNotPermitted) {
			t.Errorf("as bob: %v", err)
		}
		if _, err := as.Result(ctx, fetchworker.Identity{Provider: "fred", Operation: "series", ID: "q-1"}); !errors.Is(err, fetchworker.ErrNotPermitted) {
			t.Errorf("as bob: %v", err)
		}
		if told, err := alice.Catalogue(ctx, "fred"); err != nil || !told.Configured || len(told.Operations) == 0 {
			t.Errorf("%+v %v", told, err)
		}
		// The literal subject with a wildcard in it is hers to publish, and no order.
		m, err := user(t, s, "alice").Request("fetch.cancel.*.alice", []byte(`{"all":true}`), 5*time.Second)
		if err != nil || m.Header.Get("Nats-Service-Error-Code") != "400" {
			t.Errorf("%v %v", m, err)
		}
		for _, name := range []string{"subscriber", "replayer"} {
			refused(t, user(t, s, name), "fetch.cancel.fred.alice")
		}
	})

	bobs := subscribe(t, user(t, s, "bob"), "fetch.>")
	t.Run("alice cannot publish as bob", func(t *testing.T) {
		nc := user(t, s, "alice")
		before := waiting(t, s)
		for _, subject := range []string{
			"fetch.request.fred.interactive.series.bob", "fetch.put.fred.series.bob.q-1", "fetch.reply.bob.x",
			"fetch.replay.fred.interactive.series.bob.q-1", "fetch.event.circuit.fred", "$KV.fetch_providers.circuit.fred",
		} {
			refused(t, nc, subject)
		}
		if after := waiting(t, s); after != before {
			t.Errorf("%d messages more are stored", after-before)
		}
	})
	t.Run("a forged reply subject leads nowhere", func(t *testing.T) {
		nc := user(t, s, "alice")
		_ = nc.PublishRequest("fetch.request.fred.interactive.series.alice", "fetch.put.fred.series.bob.forged", []byte(`{"id":"f"}`))
		_ = nc.Flush()
		until(t, 5*time.Second, "her own answer", func() bool {
			_, err := alice.Result(ctx, fetchworker.Identity{Provider: "fred", Operation: "series", Agent: "alice", ID: "f"})
			return err == nil
		})
		admin := stream(t, user(t, s, "admin"))
		results, err := admin.Stream(ctx, fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := results.GetLastMsgForSubject(ctx, "fetch.result.fred.series.bob.forged"); err == nil {
			t.Error("an acknowledgement was stored as bob's answer")
		}
	})
	t.Run("bob cannot read alice's", func(t *testing.T) {
		nc := user(t, s, "bob")
		bob, err := fetchworker.NewClient(nc, "bob")
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err = bob.Result(short, fetchworker.Identity{Provider: "fred", Operation: "series", Agent: "alice", ID: "q-1"})
		if err == nil || errors.Is(err, fetchworker.ErrNoAnswer) {
			t.Errorf("he may ask for it: %v", err)
		}
		for {
			m, err := bobs.NextMsg(50 * time.Millisecond)
			if err != nil {
				break
			}
			t.Errorf("he saw %s", m.Subject)
		}
	})
	t.Run("the worker cannot ask, replay, review or audit", func(t *testing.T) {
		nc := user(t, s, "worker")
		for _, subject := range []string{
			"fetch.request.fred.interactive.series.alice", "fetch.replay.fred.interactive.series.alice.q-9",
			"fetch.review.fred.series.alice.q-9", "fetch.audit.replay.fred", "$JS.API.STREAM.DELETE.FETCH_RESULTS",
		} {
			refused(t, nc, subject)
		}
	})
	t.Run("the operator sees the fleet, and nobody else asks it", func(t *testing.T) {
		worker := user(t, s, "worker")
		leave, err := app.Announce(worker, app.Instance{Service: "fetchworker", Version: "1.2.3", State: func() any { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := worker.Flush(); err != nil { // the server knows the service then
			t.Fatal(err)
		}
		if m, err := user(t, s, "operator").Request("$SRV.PING", nil, 2*time.Second); err != nil || !strings.Contains(string(m.Data), "1.2.3") {
			t.Errorf("%v", err)
		}
		for _, name := range []string{"alice", "subscriber", "replayer", "worker"} {
			refused(t, user(t, s, name), "$SRV.PING")
		}
		if err := leave(); err != nil {
			t.Error(err)
		}
	})
	t.Run("only a worker counts what is used, and the operator reads it", func(t *testing.T) {
		subject := wire.UsageSubject("fred", "alice", time.Now(), "calls")
		if _, err := store.Increment(ctx, stream(t, user(t, s, "worker")), subject, 3, "once"); err != nil {
			t.Fatal(err)
		}
		refused(t, user(t, s, "alice"), subject)
		refused(t, user(t, s, "operator"), subject)
		desk, err := operate.Open(ctx, user(t, s, "operator"))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := desk.Usage(ctx, operate.UsageFilter{})
		if err != nil || len(rows) != 1 || rows[0].Calls != 3 {
			t.Errorf("%+v %v", rows, err)
		}
	})
	t.Run("the operator cancels what is queued", func(t *testing.T) {
		// Nobody takes it: the provider is known, and has no consumers.
		queued := fetchworker.Identity{Provider: "polygon", Operation: "aggregates", Agent: "alice", ID: "q-5"}
		if _, err := alice.Submit(ctx, fetchworker.Request{Provider: queued.Provider, Operation: queued.Operation, ID: queued.ID, Params: params(`{}`)}); err != nil {
			t.Fatal(err)
		}
		desk, err := operate.Open(ctx, user(t, s, "operator"))
		if err != nil {
			t.Fatal(err)
		}
		fleet, err := desk.Fleet(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer fleet.Close()
		task := operate.Task{
			Action: operate.ActCancel, Queued: true, Filter: browse.Filter{ID: queued.ID, Agent: "alice"},
			Signed: operate.Signature{By: "ann", Reason: "asked by mistake", Run: "r1"},
		}
		watch := operate.Watch{Did: func() {}, Note: func(string) {}}
		if err := task.Begin(ctx, desk, fleet); err != nil {
			t.Fatal(err)
		}
		plan, err := task.Plan(ctx, watch)
		if err != nil {
			t.Fatal(err)
		}
		if result, err := task.Do(ctx, plan, watch); err != nil || result.Fates[operate.FateDone] != 1 {
			t.Errorf("%+v %+v %v", plan, result, err)
		}
		if a, err := alice.Result(ctx, queued); err != nil || a.Problem == nil || a.Problem.Code() != fetchworker.CodeCancelled {
			t.Errorf("%+v %v", a, err)
		}
		holds(t, stream(t, user(t, s, "operator")), fetchworker.StreamRequests, 0)
	})
	t.Run("the operator and the replayer see all that the page shows", func(t *testing.T) {
		for _, name := range []string{"operator", "replayer"} {
			looking, done := context.WithTimeout(ctx, 20*time.Second)
			defer done()
			desk, err := operate.Open(looking, user(t, s, name))
			if err != nil {
				t.Fatal(err)
			}
			f, err := desk.Fleet(looking)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := doctor.Examine(looking, desk, f, ""); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, err := range desk.Events(looking, operate.EventFilter{}) {
				if err != nil {
					t.Errorf("%s: events: %v", name, err)
				}
			}
			for _, err := range operate.Acts(looking, desk.Browser, operate.ActFilter{}) {
				if err != nil {
					t.Errorf("%s: audit: %v", name, err)
				}
			}
		}
	})
	t.Run("the worker's metrics see every queue", func(t *testing.T) {
		js := stream(t, user(t, s, "worker"))
		kv, err := js.KeyValue(ctx, wire.BucketProviders)
		if err != nil {
			t.Fatal(err)
		}
		board, err := fleet.Watch(ctx, js, kv)
		if err != nil {
			t.Fatal(err)
		}
		defer board.Close()
		registry := prometheus.NewRegistry()
		registry.MustRegister(observe.New(js, board, nil, zap.NewNop()))
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				seen[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
		for _, name := range []string{"dlq_size", "fetch_review_size", "fetch_queue_depth"} {
			if _, ok := seen[name]; !ok {
				t.Errorf("no %s", name)
			}
		}
		if seen["fetch_fleet_read_errors_total"] != 0 {
			t.Errorf("%v reads were refused", seen["fetch_fleet_read_errors_total"])
		}
	})
}

func params(s string) []byte { return []byte(s) }

func play(t *testing.T) *providertest.Server {
	t.Helper()
	exchanges, err := providertest.Exchanges("fred")
	if err != nil {
		t.Fatal(err)
	}
	upstream := providertest.Pipe("fred.test", exchanges...)
	upstream.Fallback = func(*http.Request) *providertest.Step {
		step := providertest.JSON(200, `{"observations":[{"date":"2026-01-01","value":"1.0"}]}`)
		return &step
	}
	t.Cleanup(upstream.Close)
	return upstream
}

// serve starts a worker as the user worker, who may not make the topology.
func serve(t *testing.T, s *server.Server, upstream *providertest.Server) {
	t.Helper()
	env := map[string]string{"FRED_API_KEY": "fred-key-0123456789", "FRED_BASE_URL": upstream.URL() + "/fred"}
	set, err := providers.Load(func(name string) string { return env[name] }, providers.WithDial(upstream.DialContext))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	nc := user(t, s, "worker")
	js := stream(t, nc)
	if err := broker.Apply(ctx, js, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
		t.Fatalf("the worker looks the topology up: %v", err)
	}
	kv, err := js.KeyValue(ctx, wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	fred := set.Configured()[0]
	if err := budget.CreateRegister(ctx, kv, fred.Name); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fleet.NoteServed(ctx, js, fred.Name), broker.MayServe(ctx, js, fred.Name)); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Beat(ctx, js, fleet.Worker{Name: "w", Providers: []string{fred.Name}}); err != nil {
		t.Fatal(err)
	}
	gate, err := budget.Open(ctx, js, kv, budget.Settings{Provider: fred.Name, Worker: "w", Limits: fred.Limits, Bytes: 1 << 30, CircuitFailures: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	served := fetch.Served{
		Provider: fred, Gate: gate,
		Consumer: func(l fetchworker.Lane, shard int) string { return fredConsumer(l, shard).Durable },
		Make: func(ctx context.Context, l fetchworker.Lane, shard int) (time.Time, bool, error) {
			return broker.MakeConsumer(ctx, js, fredConsumer(l, shard))
		},
	}
	cancels, err := cancel.Watch(ctx, js, kv)
	if err != nil {
		t.Fatal(err)
	}
	desk := cancel.NewDesk(cancels, record.New(js, nil), set.Known, 72*time.Hour, zaptest.NewLogger(t))
	leave, err := app.Announce(nc, app.Instance{
		Service: "fetchworker", Version: "1.2.3", State: func() any { return nil },
		Endpoints: []app.Endpoint{{Name: "cancel", Subject: cancel.Subject, Handle: desk.Handle}, {Name: "catalog", Subject: "fetch.catalog.*", Handle: func(r micro.Request) {
			told, _ := set.Tell("fred")
			_ = r.RespondJSON(told)
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := fetch.New(fetch.Config{
		Cancels: cancel.NewGuard(cancels, "w"),
		Name:    "w", JS: js, KV: kv, Log: record.New(js, nil), Serve: []fetch.Served{served}, Rights: set.Rights,
		Retries: 3, RetryBase: time.Second, MaxLife: 72 * time.Hour, Drain: 5 * time.Second,
		Logger: zaptest.NewLogger(t), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		gate.Close()
		if err := leave(); err != nil {
			t.Error(err)
		}
		desk.Close()
		cancels.Close()
		set.Close()
	})
}

func fredConsumer(lane fetchworker.Lane, shard int) jetstream.ConsumerConfig {
	if shard < 0 {
		return broker.ReplaysConsumer("fred", broker.Held(60))
	}
	return broker.RequestConsumer("fred", lane, shard, broker.Held(60))
}

func subscribe(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// refused checks that the server refuses a publish, which it says beside it.
func refused(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	denied := make(chan error, 1)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case denied <- err:
		default:
		}
	})
	if err := nc.Publish(subject, []byte(`{"id":"x"}`)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case err := <-denied:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: %v", subject, err)
		}
	case <-waiting.Done():
		t.Errorf("%s was not refused", subject)
	}
}

// holds waits until a stream holds so many messages.
func holds(t *testing.T, js jetstream.JetStream, name string, messages uint64) {
	t.Helper()
	until(t, 5*time.Second, fmt.Sprintf("%s holds %d", name, messages), func() bool {
		found, err := js.Stream(t.Context(), name)
		return err == nil && found.CachedInfo().State.Msgs == messages
	})
}

// waiting is how many messages all streams together hold, the shared state
// apart, which a live worker writes all the time.
func waiting(t *testing.T, s *server.Server) uint64 {
	t.Helper()
	var n uint64
	lister := stream(t, user(t, s, "admin")).ListStreams(t.Context())
	for info := range lister.Info() {
		if info.Config.Name != "KV_"+wire.BucketProviders && info.Config.Name != "KV_"+wire.BucketCache {
			n += info.State.Msgs
		}
	}
	if lister.Err() != nil {
		t.Fatal(lister.Err())
	}
	return n
}
