package fetch_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/fetch"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestWhateverHappensEachRequestHasItsOneEnd plays a fleet at random: workers
// join, stop, die, are cut off from the server and come back; what they say to
// it or hear of it is lost or late; the provider is up, slow, down or throttles;
// agents ask for the same, for other things, with deadlines, and again under ids
// that are used. After each step no final answer has changed, no call has begun
// for a request that had its end, and no window is passed; in the end every
// request has its one end, and every permit is given back. Under every other seed
// consumers come and go all the time.
func TestWhateverHappensEachRequestHasItsOneEnd(t *testing.T) {
	seeds, steps := 4, 40
	if os.Getenv("FETCH_CHAOS") == "full" {
		seeds, steps = 100, 80
	}
	one := rand.IntN(seeds)
	for seed := range seeds {
		if testing.Short() && seed != one {
			continue
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				if seed%2 == 1 {
					r.rest = time.Second
				}
				p := newPlay(t, r, uint64(seed))
				for range steps {
					p.step()
					time.Sleep(time.Duration(p.rng.IntN(3000)) * time.Millisecond)
					p.check()
				}
				p.end()
			})
		})
	}
}

const (
	playLimit = 90 // calls a minute
	// looked is how long before its call a worker may have looked for the end of
	// a request that another one, thought to be gone, has still in its hands.
	looked = 3 * time.Second
)

type play struct {
	*rig
	t        *testing.T
	rng      *rand.Rand
	provider atomic.Int32 // what it does
	workers  []*played
	gone     []func() // ends of those that died
	replayer func()
	ends     *dlqtest.Recorder
	asked    []fetchworker.Identity
	named    map[string]fetchworker.Identity // by symbol, of those that ask for something of their own
	heard    sync.Map                        // when a final answer was stored, by subject
	ended    map[string]time.Time            // the same, of those that check has met
	n        int
	told     []string
}

type played struct {
	nc   *nats.Conn
	wire *brokertest.Wire
	does *fetch.Worker
	stop func()
	gate *budget.Gate
	back time.Time // when it is joined to the server again
}

func newPlay(t *testing.T, r *rig, seed uint64) *play {
	r.env["FMP_REQUESTS_PER_MINUTE"], r.env["FMP_TIMEOUT_SECONDS"] = fmt.Sprint(playLimit), "5"
	r.open = 5 * time.Second
	p := &play{
		rig: r, t: t, rng: rand.New(rand.NewPCG(seed, 24)),
		named: map[string]fetchworker.Identity{}, ended: map[string]time.Time{},
	}
	r.upstream.SetLatency(200 * time.Millisecond)
	r.upstream.Fallback = p.answer
	p.ends = dlqtest.Record(t, r.b.NC)
	stored, err := r.b.NC.Subscribe("fetch.result.>", func(m *nats.Msg) {
		if m.Header.Get(wire.HeaderFinal) == "true" {
			p.heard.LoadOrStore(m.Subject, time.Now())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.gone = append(p.gone, func() { _ = stored.Unsubscribe() })
	p.replayer = r.startReplayer(nil)
	p.join()
	return p
}

// answer is what the provider says as it is now.
func (p *play) answer(*http.Request) *providertest.Step {
	step := providertest.JSON(200, aapl)
	switch p.provider.Load() {
	case 1:
		step = providertest.JSON(503, "down")
	case 2:
		step = providertest.JSON(429, "Limit Reach")
		step.Header.Set("Retry-After", "3")
	case 3:
		step.Latency = 4 * time.Second
	case 4:
		step = providertest.JSON(404, `{"Error Message":"none"}`)
	}
	return &step
}

func (p *play) join() {
	w := &played{wire: &brokertest.Wire{}}
	p.wire = w.wire
	before := len(p.gates)
	w.nc, w.stop = p.startWorker(nil)
	w.gate, w.does = p.gates[before], p.worker
	p.workers = append(p.workers, w)
}

// one takes a worker out of the fleet.
func (p *play) one() *played {
	i := p.rng.IntN(len(p.workers))
	w := p.workers[i]
	p.workers = append(p.workers[:i], p.workers[i+1:]...)
	return w
}

func (p *play) ask() {
	for range 1 + p.rng.IntN(5) {
		p.n++
		agent, name, more := fmt.Sprint("agent-", p.rng.IntN(5)), fmt.Sprint("q", p.n), ""
		symbol := fmt.Sprint("S", p.n)
		lane := fetchworker.LaneInteractive
		switch p.rng.IntN(6) {
		case 0:
			symbol = fmt.Sprint("SAME", p.rng.IntN(2))
		case 1:
			more = `,"ttl":"20s"`
		case 2:
			lane = fetchworker.LaneBatch
		}
		id := p.rig.ask(fetchworker.RequestSubject("fmp", lane, "quote", agent), name, fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}%s}`, name, symbol, more))
		p.asked = append(p.asked, id)
		if !strings.HasPrefix(symbol, "SAME") {
			p.named[symbol] = id
		}
	}
}

// again asks under an id that is known already, for something else.
func (p *play) again() {
	if len(p.asked) == 0 {
		return
	}
	id := p.asked[p.rng.IntN(len(p.asked))]
	if _, over := p.ended[id.String()]; !over {
		return // the two would be one request, whichever is called
	}
	p.n++
	symbol := fmt.Sprint("U", p.n)
	p.named[symbol] = id
	p.quote(id.Agent, id.ID, symbol, `,"max_age":"0s"`)
}

func (p *play) step() {
	var what string
	switch n := p.rng.IntN(16); {
	case n < 5:
		what = "ask"
		p.ask()
	case n == 5:
		what = "again"
		p.again()
	case n == 6 && len(p.workers) < 4:
		what = "join"
		p.join()
	case n == 7 && len(p.workers) > 1:
		what = "stop"
		w := p.one()
		w.wire.Join()
		w.stop()
	case n == 8 && len(p.workers) > 1:
		what = "die"
		w := p.one()
		w.nc.Close()
		p.gone = append(p.gone, w.stop)
	case n == 9:
		what = "cut"
		w := p.workers[p.rng.IntN(len(p.workers))]
		w.wire.Cut()
		w.back = time.Now().Add(time.Duration(p.rng.IntN(20)) * time.Second)
	case n == 10:
		what = "outage"
		for _, w := range p.workers {
			w.wire.Cut()
			w.back = time.Now().Add(time.Duration(1+p.rng.IntN(12)) * time.Second)
		}
	case n == 11 || n == 12:
		parts := []string{"$JS.ACK.", "fetch.put.", "fetch.dlq.", "DIRECT.GET.", "$KV.", "$JS.API."}
		faults := []brokertest.Fault{brokertest.Lost, brokertest.RequestLost, brokertest.ReplyLost, brokertest.ReplyLate}
		part, fault := parts[p.rng.IntN(len(parts))], faults[p.rng.IntN(len(faults))]
		what = fmt.Sprint("lost ", part, fault)
		p.workers[p.rng.IntN(len(p.workers))].wire.Break(part, fault, 1+p.rng.IntN(3), time.Second)
	default:
		is := int32(p.rng.IntN(6)) // well as often as not
		what = fmt.Sprint("provider ", is)
		p.provider.Store(is)
	}
	p.told = append(p.told, what)
	for _, w := range p.workers {
		if !w.back.IsZero() && !time.Now().Before(w.back) {
			w.wire.Join()
			w.back = time.Time{}
		}
	}
}

// check holds what must hold at any time.
func (p *play) check() {
	p.t.Helper()
	for _, id := range p.asked {
		answers := p.ends.Answers(id)
		if n := finals(answers); n > 1 {
			p.t.Fatalf("%v: %s has %d final answers", p.told, id, n)
		}
		if at, ended := p.heard.Load(fetchworker.ResultSubject(id)); ended {
			p.ended[id.String()], _ = at.(time.Time)
		}
	}
	for _, c := range p.upstream.Calls() {
		symbol := c.Target[strings.LastIndex(c.Target, "/")+1:]
		symbol, _, _ = strings.Cut(symbol, "?")
		id, named := p.named[symbol]
		if over, ended := p.ended[id.String()]; named && ended && c.At.After(over.Add(looked)) {
			p.t.Fatalf("%v: %s was called at %v, and had its end at %v", p.told, symbol, c.At, over)
		}
	}
	if most := p.upstream.MaxIn(time.Minute); most > playLimit {
		p.t.Fatalf("%v: %d calls in a minute", p.told, most)
	}
}

// end lets everything be well again, and sees that nothing is left.
func (p *play) end() {
	defer func() {
		for _, w := range p.workers {
			w.stop()
		}
		for _, stop := range p.gone {
			stop()
		}
		p.replayer()
		p.ends.Stop()
	}()
	p.provider.Store(0)
	for _, w := range p.workers {
		w.wire.Join()
		w.wire.Mend()
	}
	p.drained(fetchworker.StreamRequests, 0, 15*time.Minute)
	p.drained(wire.StreamDLQ, 0, 15*time.Minute)
	p.drained(wire.StreamReplay, 0, 5*time.Minute)
	time.Sleep(10 * time.Second)
	p.check()
	for _, id := range p.asked {
		if _, over := p.ended[id.String()]; !over {
			p.t.Errorf("%v: %s has no end: %v", p.told, id, p.ends.Answers(id))
		}
	}
	for _, w := range p.workers {
		if s := w.gate.State(); s.InFlight != 0 || s.Waiting != 0 {
			p.t.Errorf("%v: %d in flight, %d wait, and nothing is left", p.told, s.InFlight, s.Waiting)
		}
		if left := w.does.Left(); len(left) > 0 {
			p.t.Errorf("%v: nothing is to be done, and there are left: %v", p.told, left)
		}
	}
	if p.t.Failed() {
		p.t.Log(p.told)
	}
	p.t.Logf("%d requests, %d calls", len(p.asked), len(p.upstream.Calls()))
}
