package dlq

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/cancel"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The agent of a letter that waits behind an open circuit is told what is open,
// and how its last attempt failed, if it has made one; and until when its own
// call would be the probe, which is later for whoever probed last.
func TestAnAgentIsToldWhatItWaitsFor(t *testing.T) {
	for _, c := range []struct{ what, last, want string }{
		{"", "", ""},
		{"", "HTTP 503", "HTTP 503"},
		{"the circuit of quote", "", "the circuit of quote"},
		{"the circuit of quote", "HTTP 503", "the circuit of quote; the last attempt: HTTP 503"},
	} {
		if got := (verdict{what: c.what}).detail(c.last); got != c.want {
			t.Errorf("%q after %q: told is %q", c.what, c.last, got)
		}
	}
	opens := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	letter := func(agent, symbol string) Letter {
		return Letter{
			Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent},
			Body:     []byte(`{"params":{"symbol":"` + symbol + `"}}`),
		}
	}
	probed := circuit.Probe{Agent: "alice", Call: letter("", "A").Call().Key, At: opens.Add(-time.Minute)}
	open := circuit.Circuit{State: circuit.Open, OpenUntil: opens, Probes: []circuit.Probe{probed}}
	g := gate{circuits: circuit.Record{Operations: []circuit.Operation{{Name: "quote", Circuit: open}}}}
	now := opens.Add(-time.Second)
	var before time.Time
	for _, l := range []Letter{letter("bob", "B"), letter("alice", "B"), letter("alice", "A")} {
		v := decide(l, facts{now: now, stored: now.Add(-time.Minute), gate: g.closedTo(l), retries: 3, maxLife: time.Hour})
		if v.act != actHold || v.reason != fetchworker.ReasonCircuitOpen || v.retryAt.Before(opens) || !v.retryAt.After(before) || v.what != open.What("quote") {
			t.Errorf("%s: %+v", l.Agent, v)
		}
		if before.IsZero() && !v.retryAt.Equal(opens) {
			t.Errorf("who has not probed may at %v, and is told %v", opens, v.retryAt)
		}
		before = v.retryAt
	}
}

// A circuit is the reason where its letter waits for nothing that is a better one.
func TestWhatIsTheBetterReason(t *testing.T) {
	l := Letter{Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice"}}
	until := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	open := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: until.Add(time.Hour)}}
	for held, want := range map[fetchworker.Reason]fetchworker.Reason{
		"": fetchworker.ReasonCircuitOpen, fetchworker.ReasonPaused: fetchworker.ReasonPaused, fetchworker.ReasonNoWorker: fetchworker.ReasonNoWorker,
		fetchworker.ReasonThrottled: fetchworker.ReasonCircuitOpen, fetchworker.ReasonQuota: fetchworker.ReasonCircuitOpen,
	} {
		met := gate{held: held, until: until, circuits: open}.closedTo(l)
		if met.held != want || met.until.Equal(until) != (held == want) || (met.what == "") != (held == want) {
			t.Errorf("behind %q and a circuit it waits for %q until %v: %s", held, met.held, met.until, met.what)
		}
	}
}

// A letter that is being released already is not released once more.
func TestALetterOnItsWayIsNotReleasedAgain(t *testing.T) {
	inside(t, func(t *testing.T, b *brokertest.Broker, r *Replayer) {
		l := &held{Letter: Letter{Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, Lane: fetchworker.LaneBatch}, sequence: 7}
		r.drains.claim(7)
		if again, err := r.release(t.Context(), l); err != nil || again <= 0 {
			t.Errorf("it is looked at again after %v: %v", again, err)
		}
		stream, err := b.JS.Stream(t.Context(), wire.StreamReplay)
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != 0 || r.drains.claim(7) {
			t.Errorf("%d are released, and it is nobody's", n)
		}
	})
}

// A replayer runs while it can pull.
func TestAReplayerThatCannotPullDoesNotRun(t *testing.T) {
	all := prometheus.NewRegistry()
	var err error
	newMetrics(all, func() error { return err }, time.Now)
	for _, want := range []float64{1, 0, 1} {
		if err = nil; want == 0 {
			err = errors.New("no consumer")
		}
		families, failed := all.Gather()
		if failed != nil {
			t.Fatal(failed)
		}
		seen := false
		for _, f := range families {
			if f.GetName() == "replayer_running" {
				if seen = true; f.GetMetric()[0].GetGauge().GetValue() != want {
					t.Errorf("%v: it says %v", err, f.GetMetric()[0])
				}
			}
		}
		if !seen {
			t.Error("it says nothing")
		}
	}
}

// What was told of letters that are gone does not stay in memory, and what was of
// those that are still looked at does.
func TestWhatWasToldOfLettersThatAreGoneIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiters()
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.forget(ctx) })
		defer running.Wait()
		defer stop()
		v := verdict{reason: fetchworker.ReasonPaused}
		for sequence := range uint64(3) {
			w.tell(sequence, v.reason, time.Time{}, time.Now())
		}
		known := func(minute int, want ...uint64) {
			t.Helper()
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, sequence := range want {
				if _, has := w.told[sequence]; !has {
					t.Errorf("after %d minutes %d is forgotten", minute, sequence)
				}
			}
			if len(w.told) != len(want) {
				t.Errorf("after %d minutes %d are remembered, want %d", minute, len(w.told), len(want))
			}
		}
		time.Sleep(5 * time.Minute)
		w.untold(1, v, time.Now())
		time.Sleep(4*time.Minute + 30*time.Second)
		known(9, 0, 1, 2)
		time.Sleep(2 * time.Minute)
		known(11, 1)
		time.Sleep(5 * time.Minute)
		known(16)
	})
}

// What its agent has cancelled is no probe, and what it asks for after that is.
func TestWhatIsCancelledIsNoProbe(t *testing.T) {
	inside(t, func(t *testing.T, b *brokertest.Broker, r *Replayer) {
		view, err := cancel.Watch(t.Context(), b.JS, b.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		r.config.Cancels = view
		desk := cancel.NewDesk(view, record.New(b.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
		defer desk.Close()
		open := circuit.Circuit{State: circuit.Open, OpenUntil: time.Now()}
		value, err := circuit.Record{Circuit: open}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.KV.Put(t.Context(), "circuit.fmp", value); err != nil {
			t.Fatal(err)
		}
		stored := func(id string) record.Raw {
			m := Letter{
				Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id}, Lane: fetchworker.LaneBatch,
				Body: []byte(`{}`), Generation: 1, Class: wire.ClassCircuitOpen, RequestedAt: time.Now(), FailedAt: time.Now(), NotBefore: time.Now(),
			}.DeadLetter()
			return record.Raw{Subject: m.Subject, Header: m.Header, Data: m.Data, Time: time.Now()}
		}
		before := stored("q-1")
		time.Sleep(time.Second)
		if _, may := r.canProbe(before, "", open); !may {
			t.Error("what nobody has cancelled may not probe")
		}
		if _, err := desk.Take(t.Context(), "fetch.cancel.fmp.alice", []byte(`{"all":true}`)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, may := r.canProbe(before, "", open); may {
			t.Error("what is cancelled may probe")
		}
		if _, may := r.canProbe(stored("q-2"), "", open); !may {
			t.Error("what was asked for after that may not")
		}
		// Of one that does not say when it was asked for, it is when it was stored.
		l := Letter{Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-4"}, Lane: fetchworker.LaneBatch}
		if !r.cancelled(l, before.Time) || r.cancelled(l, time.Now()) {
			t.Error("what does not say when it was asked for is not judged by when it was stored")
		}
		broken := stored("q-3")
		broken.Header.Set(wire.HeaderGeneration, "two")
		if _, may := r.canProbe(broken, "", open); may {
			t.Error("what cannot be read may probe")
		}
	})
}

// An event that cannot be written down is an error.
func TestAnEventThatCannotBeWrittenDown(t *testing.T) {
	if err := Emit(t.Context(), nil, Event{Kind: "review", Provider: "fmp", Data: func() {}}); err == nil {
		t.Error("it was told")
	}
}
