package dlq_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// On a quiet provider the replayer releases the probe: one letter at a time,
// those that have not failed first, another when one ended without a call,
// and none before the circuit's time has passed.
func TestProbesGoOneAtATime(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		for range 3 { // any number of replayers
			f.Replayer(nil)
		}
		const open = time.Minute
		opened := time.Now()
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: opened.Add(open)}})
		for i := range 3 {
			f.Put(dlqtest.FailedOnce(i))
		}
		for i := 3; i < 5; i++ {
			f.Put(dlqtest.Fresh(i, wire.ClassCircuitOpen))
		}

		var mu sync.Mutex
		var order []string
		var at []time.Duration
		f.Worker("fmp", func(l dlq.Letter) error {
			mu.Lock()
			n := len(order)
			order, at = append(order, l.ID), append(at, time.Since(opened))
			mu.Unlock()
			if waiting := f.Count(wire.StreamReplay, "fetch.replay.>"); waiting != 1 && n < 4 {
				t.Errorf("%d letters are at work while a probe is", waiting)
			}
			switch n {
			case 0: // it ends without a call
				time.Sleep(3 * time.Second)
				return f.ParkedAgain(l, wire.ClassCircuitOpen)
			case 1, 2: // it calls, and fails
				f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.HalfOpen, Prober: "w", ProbeUntil: time.Now().Add(30 * time.Second)}})
				time.Sleep(5 * time.Second)
				f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now().Add(open)}})
				l.Calls++
				return f.ParkedAgain(l, wire.ClassCircuitOpen)
			case 3: // it calls, and succeeds
				f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, LastSuccess: time.Now()})
			}
			return f.Succeed(l)
		})

		f.Eventually(5*time.Minute, "all are answered", func() bool {
			for i := range 5 {
				if a, _ := f.Answer(dlqtest.Ident(i)); !a.Final {
					return false
				}
			}
			return true
		})
		mu.Lock()
		defer mu.Unlock()
		t.Log(order, at)
		if len(order) < 4 || order[0] != "q-3" || order[1] != "q-4" || order[2] != "q-3" || order[3] != "q-4" {
			t.Errorf("probed with %v", order)
		}
		for i, least := range []time.Duration{open, open + 3*time.Second, 2*open + 8*time.Second, 3*open + 13*time.Second} {
			if at[i] < least || at[i] > least+8*time.Second {
				t.Errorf("probe %d came after %v", i+1, at[i])
			}
		}
		f.Eventually(10*time.Second, "nothing waits", func() bool {
			return f.Count(wire.StreamDLQ, "fetch.dlq.>")+f.Count(wire.StreamReplay, "fetch.replay.>") == 0
		})
		f.Check(dlqtest.Check{Empty: true})
	})
}

// While a request waits in the interactive queue it is left the probe, for a
// moment: who waits there may wait for others of its provider.
func TestARequestIsTheBetterProbe(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now()}})
		f.Request("fmp", fetchworker.LaneInteractive, `{"id":"q-9"}`)
		f.Put(dlqtest.Fresh(1, wire.ClassCircuitOpen))
		time.Sleep(1500 * time.Millisecond)
		released(f, 0, 0)
		released(f, 5*time.Second, 1)
	})
}

// Nobody probes for a provider that is paused, or that nobody serves.
func TestNoProbeBehindAnotherGate(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		leave := f.Serve("fmp")
		f.Replayer(nil)
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now()}})
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Minute), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		f.Put(dlqtest.Fresh(1, wire.ClassCircuitOpen))
		time.Sleep(30 * time.Second)
		released(f, 0, 0)
		leave()
		time.Sleep(3 * time.Minute)
		released(f, 0, 0)
		f.Serve("fmp")
		released(f, 10*time.Second, 1)
	})
}

// asks is a letter of an agent's own request.
func asks(i int, agent, operation, params string) dlq.Letter {
	l := dlqtest.Fresh(i, wire.ClassCircuitOpen)
	l.Agent, l.Operation = agent, operation
	l.Body = []byte(`{"params":` + params + `}`)
	return l
}

// openFor is a circuit that alice's failures opened.
func openFor(agent string, until time.Time, probes ...circuit.Probe) circuit.Circuit {
	return circuit.Circuit{State: circuit.Open, Agent: agent, OpenedAt: time.Now(), OpenUntil: until, Why: "3 different calls failed in a row", Probes: probes}
}

// TestOnlyWhatACircuitIsOpenForIsHeld: letters of other operations, of other
// agents and of other paths go as if nothing were open.
func TestOnlyWhatACircuitIsOpenForIsHeld(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		until := time.Now().Add(time.Hour)
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{
			{Name: "quote", Circuit: openFor("alice", until)},
			{Name: "get /ratios", Circuit: openFor("", until)},
		}})
		held := []dlq.Letter{asks(1, "alice", "quote", `{"symbol":"A"}`), asks(2, "bob", "get", `{"path":"/ratios","query":{"symbol":"A"}}`)}
		goes := []dlq.Letter{
			asks(3, "bob", "quote", `{"symbol":"A"}`), asks(4, "alice", "profile", `{"symbol":"A"}`),
			asks(5, "alice", "get", `{"path":"/well"}`), asks(6, "bob", "get", `{"path":"/ratios-ttm"}`),
		}
		f.Put(append(held, goes...)...)
		released(f, 10*time.Second, len(goes))
		time.Sleep(time.Minute)
		released(f, 0, len(goes))
		for i, want := range []string{
			"the circuit of quote is open for calls of alice: 3 different calls failed in a row, the next probe at 2000-01-01T01:00:00Z",
			"the circuit of get /ratios is open: 3 different calls failed in a row, the next probe at 2000-01-01T01:00:00Z",
		} {
			a, _ := f.Answer(held[i].Identity)
			if a.Problem == nil || a.Problem.Detail != want || !a.Problem.RetryAt.Equal(until) {
				t.Errorf("told %+v, want %q", a.Problem, want)
			}
		}
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, LastSuccess: time.Now()})
		released(f, 10*time.Second, len(goes)+len(held))
	})
}

// TestEachCircuitGetsAProbeOfItsOwn, whatever else of the provider is at work.
func TestEachCircuitGetsAProbeOfItsOwn(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		due := time.Now().Add(10 * time.Second)
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{
			{Name: "quote", Circuit: openFor("", due)},
			{Name: "get /ratios", Circuit: openFor("", due)},
		}})
		f.Put(asks(1, "alice", "profile", `{"symbol":"A"}`)) // is at work, and says nothing
		for i := range 3 {
			f.Put(asks(10+i, "alice", "quote", fmt.Sprintf(`{"symbol":"Q%d"}`, i)), asks(20+i, "bob", "get", fmt.Sprintf(`{"path":"/ratios","query":{"symbol":"R%d"}}`, i)))
		}
		released(f, 9*time.Second, 1)
		time.Sleep(time.Minute)
		if quotes, ratios := f.Count(wire.StreamReplay, "fetch.replay.fmp.*.quote.>"), f.Count(wire.StreamReplay, "fetch.replay.fmp.*.get.>"); quotes != 1 || ratios != 1 {
			t.Errorf("%d quotes and %d ratios are probes", quotes, ratios)
		}
	})
}

// TestTheNextProbeIsAnothers: after a probe of one agent's that failed, that
// of an agent whose letter lies behind a hundred of the first.
func TestTheNextProbeIsAnothers(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		for i := range 300 {
			f.Put(asks(i, "alice", "quote", fmt.Sprintf(`{"symbol":"A%d"}`, i)))
		}
		f.Put(asks(0, "bob", "quote", `{"symbol":"B"}`))
		now := time.Now()
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{
			{Name: "quote", Circuit: openFor("", now.Add(5*time.Second), circuit.Probe{Agent: "alice", Call: "x", At: now})},
		}})
		f.Replayer(nil)
		released(f, 10*time.Second, 1)
		if n := f.Count(wire.StreamReplay, "fetch.replay.fmp.*.quote.bob.>"); n != 1 {
			t.Error("the probe is alice's again")
		}
	})
}

// TestALetterWithoutQuotaIsNoProbe: it would be sent back.
func TestALetterWithoutQuotaIsNoProbe(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Replayer(nil)
		f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenUntil: time.Now()}})
		l := dlqtest.Fresh(1, wire.ClassQuota)
		l.NotBefore = time.Now().Add(time.Hour)
		f.Put(l)
		time.Sleep(time.Minute)
		released(f, 0, 0)
	})
}

// A call at work that a circuit is not open for is not its probe: another one of
// the same agent's and operation's where it is open for one call, another path's
// where it is open for a path.
func TestAnotherCallAtWorkIsNoProbe(t *testing.T) {
	for name, c := range map[string]struct {
		waits, works dlq.Letter
		one          bool
	}{
		"another call": {asks(1, "alice", "quote", `{"symbol":"A"}`), asks(2, "alice", "quote", `{"symbol":"B"}`), true},
		"another path": {asks(1, "alice", "get", `{"path":"/ratios"}`), asks(2, "alice", "get", `{"path":"/well"}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				f.Replayer(nil)
				open := openFor("", time.Now().Add(5*time.Second))
				if c.one {
					open.Call = c.waits.Call().Key
				}
				f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{{Name: c.waits.Call().Operation, Circuit: open}}})
				f.Put(c.waits, c.works)
				released(f, 3*time.Second, 1) // is at work, and says nothing
				released(f, 10*time.Second, 2)
			})
		})
	}
}

// A letter is the probe of the circuit that holds it, once its turn has come, and
// whenever it came to the letters.
func TestALetterProbesItsOwnCircuitInItsTurn(t *testing.T) {
	l := asks(1, "alice", "quote", `{"symbol":"A"}`)
	for name, c := range map[string]struct {
		put    func(at time.Time) circuit.Record // what is open when the letter is stored
		before time.Duration                     // circuits are known for so long before it is
		none   time.Duration                     // none goes for so long
		goes   bool                              // and then one does
	}{
		"the whole provider's is open too, and not due": {put: func(at time.Time) circuit.Record {
			return circuit.Record{Circuit: openFor("", at.Add(time.Hour)), Operations: []circuit.Operation{{Name: "quote", Circuit: openFor("", at)}}}
		}, none: time.Minute},
		"it was the last probe": {put: func(at time.Time) circuit.Record {
			probed := openFor("", at.Add(time.Minute), circuit.Probe{Agent: "alice", Call: l.Call().Key, At: at})
			return circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{{Name: "quote", Circuit: probed}}}
		}, none: time.Minute + 2*time.Second, goes: true},
		"it comes long after the probe was due": {put: func(at time.Time) circuit.Record {
			return circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{{Name: "quote", Circuit: openFor("", at)}}}
		}, before: 20 * time.Second, goes: true},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				f.Replayer(nil)
				f.Circuit("fmp", c.put(time.Now()))
				f.Put(asks(2, "alice", "profile", `{"symbol":"A"}`)) // by which the replayer knows of the provider
				others := 1
				if c.put(time.Now()).Held() {
					others = 0
				}
				time.Sleep(c.before)
				letter := asks(1, "alice", "quote", `{"symbol":"A"}`)
				f.Put(letter)
				time.Sleep(c.none)
				if c.none > 0 {
					released(f, 0, others)
				}
				if c.goes {
					released(f, 20*time.Second, others+1)
				}
			})
		})
	}
}

// The one to probe with is found without reading a crowd, and is a request in the
// interactive lane where one lies behind it.
func TestTheProbeOfACrowdIsFoundAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		agents  int // that the crowd is of
		last    fetchworker.Lane
		open    func(c *circuit.Circuit)
		probed  []string // agents whose probes have failed
		goes    string   // agent of the one that goes
		atMost  int64    // reads
		another bool     // provider's letters lie between them and the last
		gone    bool     // and are deleted
	}{
		"of many agents":            {agents: 50, last: fetchworker.LaneBatch, goes: "crowd-0", atMost: 8},
		"some of whom have probed":  {agents: 50, last: fetchworker.LaneBatch, probed: []string{"crowd-0", "crowd-1"}, goes: "crowd-2", atMost: 8 + 64},
		"an interactive one behind": {agents: 50, last: fetchworker.LaneInteractive, goes: "last", atMost: 4},
		"which has probed":          {agents: 50, last: fetchworker.LaneInteractive, probed: []string{"last"}, goes: "crowd-0", atMost: 8 + 64},
		"of one agent, whose circuit it is": {
			agents: 1, last: fetchworker.LaneBatch, probed: []string{"crowd-0"}, goes: "crowd-0", atMost: 8,
			open: func(c *circuit.Circuit) { c.Agent = "crowd-0" },
		},
		"of one agent, and the last is another's": {agents: 1, last: fetchworker.LaneBatch, probed: []string{"crowd-0"}, goes: "last", atMost: 250},
		"among another provider's":                {agents: 1, last: fetchworker.LaneBatch, probed: []string{"crowd-0"}, goes: "last", atMost: 250, another: true},
		"behind a gap":                            {agents: 1, last: fetchworker.LaneBatch, probed: []string{"crowd-0"}, goes: "last", atMost: 250, another: true, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				now := time.Now()
				open := openFor("", now.Add(10*time.Second))
				for _, agent := range c.probed {
					open.Probes = append(open.Probes, circuit.Probe{Agent: agent, Call: "x", At: now})
				}
				if c.open != nil {
					c.open(&open)
				}
				f.Circuit("fmp", circuit.Record{Circuit: circuit.Circuit{State: circuit.Closed}, Operations: []circuit.Operation{{Name: "quote", Circuit: open}}})
				i := 0
				f.Crowd(150, func(l *dlq.Letter) {
					*l = asks(i, fmt.Sprint("crowd-", i%c.agents), "quote", fmt.Sprintf(`{"symbol":"S%d"}`, i))
					l.Lane = fetchworker.LaneBatch
					if c.another && i > 20 {
						l.Provider = "polygon"
					}
					i++
				})
				last := asks(1000, "last", "quote", `{"symbol":"L"}`)
				if last.Lane = c.last; c.open != nil {
					last.Agent = "crowd-0"
				}
				f.Put(last)
				if c.gone {
					stream, err := f.JS.Stream(f.Ctx, wire.StreamDLQ)
					if err == nil {
						err = stream.Purge(f.Ctx, jetstream.WithPurgeSubject("fetch.dlq.polygon.>"))
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				f.Replayer(nil)
				time.Sleep(9 * time.Second) // it has met them
				var reads atomic.Int64
				sub, err := f.JS.Conn().Subscribe("$JS.API.DIRECT.GET."+wire.StreamDLQ, func(*nats.Msg) { reads.Add(1) })
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = sub.Unsubscribe() }()
				released(f, 10*time.Second, 1)
				if n := f.Count(wire.StreamReplay, "fetch.replay.fmp.*.quote."+c.goes+".>"); n != 1 {
					t.Errorf("it is not %s's", c.goes)
				}
				if reads.Load() > c.atMost {
					t.Errorf("%d letters were read", reads.Load())
				}
				f.Accepted = nil
			})
		})
	}
}
