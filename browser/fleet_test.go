// Package browser looks at the operators' page in a real browser. It is a
// module of its own, so that the product links none of it.
package browser

import (
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/page"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// staged is a fleet in an outage: polygon is down with its crowd parked, fmp has
// 1,000 items in review and a backlog, newsapi is on hold, alice has cancelled
// some, and the ledger has a week.
func staged(t *testing.T) (*brokertest.Broker, string) {
	t.Helper()
	b := brokertest.Start(t)
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	live := fleet.Worker{
		Name: "worker-a-81-k3x9qz", Version: "1.4.2", Providers: []string{"fmp", "polygon", "newsapi"}, Keyless: map[string]string{"fred": "FRED_API_KEY"},
		Limits: map[string]string{"fmp": "300/min", "polygon": "5/min", "newsapi": "100/d"},
	}
	beat := func() { _ = fleet.Beat(ctx, b.JS, live) }
	beat()
	t.Cleanup(every(4*time.Second, beat))
	for provider, limit := range map[string]string{"fmp": "300/min", "polygon": "5/min", "newsapi": "100/d"} {
		check(broker.ServeProvider(ctx, b.JS, provider, broker.Held(120)))
		check(budget.CreateRegister(ctx, b.KV, provider))
		limits, err := ledger.ParseLimits(limit)
		check(err)
		gate, err := budget.Open(ctx, b.JS, b.KV, budget.Settings{Provider: provider, Worker: "w", Limits: limits}, func(budget.Event) {})
		check(err)
		permit, err := gate.Acquire(ctx, turns.Ask{Lane: budget.LaneOf(fetchworker.LaneInteractive), Alone: true})
		check(err)
		check(permit.Start())
		report := budget.Report{Outcome: budget.Success, Remaining: -1}
		if provider == "newsapi" {
			report = budget.Report{Outcome: budget.Throttled, RetryAfter: 40 * time.Minute, Remaining: -1}
		}
		permit.Done(report)
		time.Sleep(300 * time.Millisecond)
		gate.Close()
	}
	now := time.Now()
	down, err := circuit.Record{Circuit: circuit.Circuit{
		State: circuit.Open, OpenedAt: now.Add(-12 * time.Minute), OpenUntil: now.Add(45 * time.Second), Why: "HTTP 503 for 3 different calls in a row",
	}}.Encode()
	check(err)
	_, err = b.KV.Put(ctx, "circuit.polygon", down)
	check(err)
	letter := func(provider, operation, agent string, n int, class wire.Class, problem string, status int, ago time.Duration) dlq.Letter {
		failed := now.Add(-ago)
		l := dlq.Letter{
			Identity: fetchworker.Identity{Provider: provider, Operation: operation, Agent: agent, ID: fmt.Sprintf("%s-%d", operation, n)},
			Lane:     fetchworker.LaneInteractive, Body: []byte(fmt.Sprintf(`{"id":"%s-%d","params":{"symbol":"SYM%d"}}`, operation, n, n)),
			Generation: 1, Calls: 2, Failures: 2, Class: class, Error: problem, HTTPStatus: status,
			RequestedAt: failed.Add(-time.Minute), FailedAt: failed, FirstFailedAt: failed.Add(-30 * time.Second), NotBefore: now.Add(20 * time.Minute), Worker: live.Name,
			Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		}
		for i := range 2 {
			l.Record(dlq.Attempt{At: failed.Add(time.Duration(i-1) * 30 * time.Second), Class: class, HTTPStatus: status, LatencyMS: 212 + int64(i), Error: problem})
		}
		return l
	}
	put := func(m *nats.Msg) {
		t.Helper()
		_, err := b.JS.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
		check(err)
	}
	for n := range 2017 {
		put(letter("polygon", "aggregates", []string{"alice", "bob", "carol"}[n%3], n, wire.ClassCircuitOpen, "the circuit was open", 0, time.Duration(n)*300*time.Millisecond).DeadLetter())
	}
	for n := range 1000 {
		cause := []struct {
			class   wire.Class
			problem string
			status  int
		}{
			{wire.ClassTransient, "upstream timed out after 30s", 504},
			{wire.ClassPermanent, "no such symbol", 404},
			{wire.ClassPermanent, "gone: the ticker was delisted", 410},
			{wire.ClassTransient, "bad gateway", 502},
			{wire.ClassPoison, "the worker died three times", 0},
		}[min(n%11, n%7, 4)]
		put(letter("fmp", "quote", []string{"alice", "bob"}[n%2], n, cause.class, cause.problem, cause.status, time.Duration(n)*time.Second).ReviewItem())
	}
	for n := range 640 {
		_, err := b.JS.PublishMsgAsync(&nats.Msg{Subject: fetchworker.RequestSubject("fmp", []fetchworker.Lane{fetchworker.LaneInteractive, fetchworker.LaneBatch}[n%2], "quote", []string{"alice", "bob", "research", "carol"}[n%4]), Data: []byte(`{}`)}, jetstream.WithStallWait(time.Minute))
		check(err)
	}
	count := func(subject string, n int) {
		m := nats.NewMsg(subject)
		m.Header.Set("Nats-Incr", fmt.Sprintf("+%d", n))
		put(m)
	}
	for day := range 7 {
		at := now.AddDate(0, 0, -day)
		for i, agent := range []string{"research", "alice", "bob", "carol"} {
			for _, provider := range []string{"fmp", "polygon"} {
				calls := 9000/(i+1)/(i+1) - 700*day/(i+1)
				count(wire.UsageSubject(provider, agent, at, "calls"), calls)
				count(wire.UsageSubject(provider, agent, at, "bytes"), calls*48_000)
				count(wire.UsageSubject(provider, agent, at, "ok"), calls*9/10)
				count(wire.UsageSubject(provider, agent, at, "cached"), calls/3)
				count(wire.UsageSubject(provider, agent, at, "failed"), calls/40+1)
			}
		}
		count(wire.CauseSubject("polygon", "aggregates", at, "transient-503"), 412)
		count(wire.CauseSubject("fmp", "quote", at, "permanent-404"), 96)
		count(wire.CauseSubject("fmp", "quote", at, "transient-timeout"), 31)
	}
	count(wire.BytesSubject("fmp", now), 31<<30)
	<-b.JS.PublishAsyncComplete()
	log := operateDesk(t, b)
	check(dlq.Emit(ctx, log.Log, dlq.Event{Kind: budget.KindBudget, Provider: "fmp", ID: "70", Time: now, Data: budget.Event{Kind: budget.KindBudget, Limit: 40 << 30, Percent: 70, Month: now.Format("2006-01")}}))
	check(dlq.Emit(ctx, log.Log, dlq.Event{Kind: budget.KindCircuit, Provider: "polygon", ID: "open", Time: now.Add(-12 * time.Minute), Data: budget.Event{Kind: budget.KindCircuit, State: circuit.Open, Why: "HTTP 503 for 3 different calls in a row"}}))
	for _, act := range []operate.Act{
		{Action: operate.ActCancel, Provider: "polygon", Operation: "aggregates", Agent: "alice", ID: "aggregates-3000", Generation: 1},
		{Action: operate.ActLimit, Provider: "fmp", Limits: "300/min"},
	} {
		check(operate.RecordAct(ctx, b.JS, operate.Signature{By: "ann", Reason: "the job was stopped, ticket 4711", Run: "r1"}, act))
	}
	shown, err := page.Show(ctx, b.NC, page.Options{Addr: "127.0.0.1:0", By: "ann", Log: zap.NewNop()})
	check(err)
	t.Cleanup(func() { _ = shown.Close() })
	return b, shown.URL()
}

func operateDesk(t *testing.T, b *brokertest.Broker) *operate.Desk {
	t.Helper()
	d, err := operate.Open(t.Context(), b.NC)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// every does something again and again, until the function returned is called.
func every(d time.Duration, do func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				do()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
