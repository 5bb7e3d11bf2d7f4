package budget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// threeAtOnce bounds the calls of the whole fleet.
func threeAtOnce(s *Settings) {
	s.AtOnce, s.Limits, s.CallTimeout = 3, perMinute(6000), 5*time.Second
}

// counter is the provider: it knows how many calls are under way.
type counter struct {
	mu              sync.Mutex
	under, most, in int
	by              map[string]int
}

func (c *counter) begin(who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under++
	c.in++
	c.by[who]++
	c.most = max(c.most, c.under)
}

func (c *counter) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under--
}

// so is how many calls there were, by whom, and how many at once at the most.
func (c *counter) so() (in, most int, by map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in, c.most, maps.Clone(c.by)
}

// keepsCalling is as many agents as a gate has use for, until ctx ends.
func (c *counter) keepsCalling(ctx context.Context, t *testing.T, who string, g *Gate, n int, each time.Duration, all *sync.WaitGroup) {
	for i := range n {
		all.Go(func() {
			for {
				p, err := g.Acquire(ctx, turns.Ask{Shard: i})
				if ctx.Err() != nil || errors.Is(err, ErrShut) {
					if err == nil {
						p.Done(Report{Remaining: -1})
					}
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if p.Start() == nil {
					c.begin(who)
					time.Sleep(each)
					c.end()
				}
				p.Done(Report{Outcome: Success, Remaining: -1})
			}
		})
	}
}

// Calls at once are the fleet's, fairly shared, and all of them used.
func TestCallsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		c := &counter{by: map[string]int{}}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		first := b.open("w1", threeAtOnce)
		c.keepsCalling(ctx, t, "w1", first, 8, 100*time.Millisecond, &all)
		time.Sleep(10 * time.Second)
		alone, most, before := c.so()
		if most != 3 || alone < 270 {
			t.Errorf("one worker: at most %d at once, %d calls of 300", most, alone)
		}
		for _, name := range []string{"w2", "w3", "w4", "w5"} {
			c.keepsCalling(ctx, t, name, b.open(name, threeAtOnce), 8, 100*time.Millisecond, &all)
		}
		none := b.open("w6", func(s *Settings) { threeAtOnce(s); s.AtOnce = 0 }) // it obeys all the same
		c.keepsCalling(ctx, t, "w6", none, 8, 100*time.Millisecond, &all)
		time.Sleep(30 * time.Second)
		in, most, by := c.so()
		if most != 3 {
			t.Errorf("six workers: at most %d at once", most)
		}
		total := in - alone
		for name, n := range by {
			if n -= before[name]; n < total/12 || n > total/3 {
				t.Errorf("%s made %d of %d calls: %v", name, n, total, by)
			}
		}
		if total < 450 {
			t.Errorf("%d calls of 900", total)
		}
		v, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if p := v.Provider("fmp", v.Now()); p.AtOnce != 3 || p.Taken < 1 || p.Taken > 3 {
			t.Errorf("the fleet shows %d of %d", p.Taken, p.AtOnce)
		}
		stop()
		all.Wait()
		time.Sleep(2 * time.Second)
		if p := v.Provider("fmp", v.Now()); p.Taken != 0 {
			t.Errorf("%d are taken, and nobody calls", p.Taken)
		}
	})
}

// A worker that dies keeps its calls for as long as they might last and a
// little more, and then they are others'.
func TestTheCallsOfTheDead(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		dying, other := b.open("w1", threeAtOnce), b.open("w2", threeAtOnce)
		var held []*Permit
		for range 3 {
			held = append(held, b.begin(dying, asks("a")))
		}
		b.conns[len(b.conns)-2].Close() // it says nothing any more
		died := time.Now()
		p := b.begin(other, asks("b"))
		if d := time.Since(died); d < 5*time.Second || d > 25*time.Second {
			t.Errorf("the first call %v after the other died, with calls of 5 s", d)
		}
		p.Done(Report{Outcome: Success, Remaining: -1})
		for range 3 {
			b.begin(other, asks("b"))
		}
		// What the dead one had is over: it would begin no other call.
		for _, p := range held {
			p.Done(Report{Outcome: Success, Remaining: -1})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if p, err := dying.Acquire(ctx, asks("c")); err == nil && p.Start() == nil {
			t.Error("the dead one calls")
		}
	})
}

// Where the register is lost, nobody knows who calls: each worker keeps the
// calls that it has, and nobody has more until those of the dead must be over.
func TestLostCallsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		c := &counter{by: map[string]int{}}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		slow := func(s *Settings) { threeAtOnce(s); s.Limits = nil }
		for _, name := range []string{"w1", "w2"} {
			c.keepsCalling(ctx, t, name, b.open(name, slow), 4, 3*time.Second, &all)
		}
		for _, damage := range []func() error{
			// What is missing is created by who opens the next gate: as a worker
			// does only where nobody has served the provider.
			func() error { return b.kv.Purge(t.Context(), store.PermitsKey("fmp")) },
			func() error {
				_, err := b.kv.Put(t.Context(), store.PermitsKey("fmp"), []byte("what is this?"))
				return err
			},
		} {
			time.Sleep(20*time.Second + 700*time.Millisecond)
			before, _, _ := c.so()
			third := b.open(fmt.Sprint("w", 3+before), slow)
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			c.keepsCalling(ctx, t, "w3", third, 4, 3*time.Second, &all)
			time.Sleep(70 * time.Second)
			if in, most, _ := c.so(); in-before < 20 || most != 3 {
				t.Errorf("%d calls after the loss, at most %d at once", in-before, most)
			}
		}
		stop()
		all.Wait()
	})
}

// A register in which calls at once are counted is nothing for a worker of an
// older version.
func TestAnOlderWorkerLeavesCallsAtOnceAlone(t *testing.T) {
	r := ledger.New(1)
	r.Sit(ledger.SeatOrder{Owner: "w1", Most: 3, Want: 1, Term: time.Second}, simStart)
	if b := r.Encode(); b[0] != 4 {
		t.Errorf("it begins with %d", b[0])
	}
	d, err := ledger.Decode(r.Encode())
	if n, _ := d.Seats("w1"); err != nil || n != 1 || d.AtOnce(0, simStart) != 3 {
		t.Errorf("read back: %d seats of %d, %v", n, d.AtOnce(0, simStart), err)
	}
	if text := strings.ToValidUTF8(string(r.Encode()), ""); !strings.Contains(text, "w1") {
		t.Errorf("%q", text)
	}
}
