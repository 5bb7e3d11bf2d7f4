package budget

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"

	"github.com/nats-io/nats.go/jetstream"
)

// ofQuota is a provider of the quota sec, 8 calls a minute.
func ofQuota(provider string) func(*Settings) {
	return func(s *Settings) { s.Provider, s.Quota, s.Limits = provider, "sec", perMinute(8) }
}

func (b *bench) register(providers ...string) {
	b.Helper()
	for _, p := range providers {
		if err := CreateRegister(b.Context(), b.kv, p); err != nil {
			b.Fatal(err)
		}
	}
}

// spend makes calls until none is to be had within a second, and tells how many.
func (b *bench) spend(gates ...*Gate) (n int) {
	b.Helper()
	for refused := 0; refused < len(gates); {
		refused = 0
		for _, g := range gates {
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			p, err := g.Acquire(ctx, turns.Ask{Alone: true, Shard: n})
			cancel()
			if err != nil {
				refused++
				continue
			}
			if err := p.Start(); err != nil {
				b.Fatal(err)
			}
			p.Done(Report{Outcome: Success, Remaining: -1})
			n++
		}
	}
	return n
}

func (b *bench) lives(w fleet.Worker) {
	b.Helper()
	if err := fleet.Beat(b.Context(), b.js, w); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

// Two providers, each served by workers of its own: together they have what
// one would have, whichever asks, and a hold of one is a hold of both.
func TestAQuotaOfTwoProviders(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.register("data", "www")
		data, www := b.open("w1", ofQuota("data")), b.open("w1", ofQuota("www"))
		other := b.open("w2", ofQuota("www"))
		start := time.Now()
		if n := b.spend(data, www, other); n != 8 || time.Since(start) > 20*time.Second {
			t.Errorf("%d calls in %v", n, time.Since(start))
		}
		v, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		for _, provider := range []string{"data", "www"} {
			p := v.Provider(provider, v.Now())
			if p.Quota != "sec" || !slices.Equal(p.Sharing, []string{"data", "www"}) || len(p.Windows) != 1 || p.Windows[0].Left != 0 || !p.Registered {
				t.Errorf("of %s the fleet shows %+v", provider, p)
			}
		}
		if names := v.Providers(); slices.Contains(names, "sec") {
			t.Errorf("a quota is no provider: %v", names)
		}
		time.Sleep(2 * time.Minute)

		p := b.begin(data, asks("a"))
		p.Done(throttled(10 * time.Minute))
		settle()
		for _, g := range []*Gate{www, other} {
			b.about(b.refused(g, fetchworker.ReasonThrottled), time.Now().Add(10*time.Minute))
		}
		if err := fleet.Resume(t.Context(), b.kv, "www"); err != nil {
			t.Fatal(err)
		}
		settle()
		b.call(www, Success, "a")
		b.call(data, Success, "a")

		// An order for one is an order for both.
		if err := fleet.SetLimits(t.Context(), b.kv, "www", perMinute(4), time.Time{}, "ann", "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if n := b.spend(data, www); n != 4 {
			t.Errorf("%d calls under 4 a minute", n)
		}
		if err := fleet.ResetLimits(t.Context(), b.kv, "data"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if n := b.spend(data, www); n != 8 {
			t.Errorf("%d calls under 8 a minute again", n)
		}
	})
}

// Over the copy of the bucket that a worker has, which leaves some keys out, its
// gates see all of a quota: who is in it, a hold, a claim of another's, that the
// register is lost, and that the provider was moved out.
func TestAQuotaThroughAWorkersMirror(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.register("data", "www")
		var gates []*Gate
		for _, worker := range []string{"w1", "w2"} {
			js, kv := b.connect()
			mirror, err := store.NewMirror(t.Context(), js, kv, nil, fleet.OwnKeys(worker)...)
			if err != nil {
				t.Fatal(err)
			}
			defer mirror.Close()
			for _, provider := range []string{"data", "www"} {
				s := Settings{Worker: worker, Mirror: mirror}
				ofQuota(provider)(&s)
				g, err := Open(t.Context(), js, kv, s, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer g.Close()
				gates = append(gates, g)
			}
		}
		settle()
		if n := b.spend(gates...); n != 8 {
			t.Errorf("%d calls of 8", n)
		}
		time.Sleep(2 * time.Minute)
		b.begin(gates[0], asks("a")).Done(throttled(10 * time.Minute))
		settle()
		for _, g := range gates[1:] {
			if g.State().HoldUntil.IsZero() {
				t.Errorf("%s of %s sees no hold", g.s.Provider, g.s.Worker)
			}
		}
		if err := fleet.Resume(t.Context(), b.kv, "data"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if n := b.spend(gates...); n != 8 {
			t.Errorf("%d calls of 8 after the hold", n)
		}
		if err := b.kv.Purge(t.Context(), store.QuotaKey("sec")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := b.spend(gates...); n != 0 {
			t.Errorf("%d calls after the quota was lost", n)
		}
		time.Sleep(2 * time.Minute)
		out, err := b.kv.Get(t.Context(), store.PermitsKey("data"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.kv.Update(t.Context(), out.Key(), ledger.EncodeMoved("other", ledger.New(1).Encode()), out.Revision()); err != nil {
			t.Fatal(err)
		}
		b.lives(fleet.Worker{Name: "w9", Quotas: map[string]string{"data": "other"}})
		settle()
		for i, g := range gates {
			if unable := g.State().Unable; strings.Contains(unable, "quota other") != (i%2 == 0) {
				t.Errorf("%s of %s after data was moved: %q", g.s.Provider, g.s.Worker, unable)
			}
		}
	})
}

// Calls that a provider made before it shared a quota count in it, and so do
// those of the quota when it leaves.
func TestAProviderTakesItsCallsAlong(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.register("data", "www")
		alone := func(provider string) func(*Settings) {
			return func(s *Settings) { s.Provider, s.Limits = provider, perMinute(8) }
		}
		before := b.open("w1", alone("data"))
		elsewhere := b.open("w1", alone("www"))
		for range 3 {
			b.call(before, Success, "")
		}
		for range 2 {
			b.call(elsewhere, Success, "")
		}
		data, www := b.open("w2", ofQuota("data")), b.open("w2", ofQuota("www"))
		b.lives(fleet.Worker{Name: "w2", Providers: []string{"data", "www"}, Quotas: map[string]string{"data": "sec", "www": "sec"}})
		if n := b.spend(data, www); n != 3 {
			t.Errorf("%d calls besides the 5 of before", n)
		}
		// Whose catalogue says nothing of the quota leaves the provider to those
		// who know it, as long as they live.
		time.Sleep(2 * homeEach)
		_, err := before.Acquire(t.Context(), asks("a"))
		var unable *UnableError
		if !errors.As(err, &unable) || !strings.Contains(unable.Why, "quota sec") || !strings.Contains(unable.Why, "w2") {
			t.Errorf("one without the quota: %v", err)
		}
		data.Close()
		www.Close()
		time.Sleep(2 * time.Minute) // it was killed, and has said nothing since
		if n := b.spend(before); n != 8 {
			t.Errorf("%d calls of one that has left the quota", n)
		}
		settle()
		e, err := b.kv.Get(t.Context(), store.PermitsKey("data"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.Decode(e.Value()); err != nil {
			t.Errorf("its register: %v", err)
		}
	})
}

// A worker of an older version finds in place of the register what it cannot
// read, and must not replace.
func TestAnOlderWorkerLeavesAQuotaAlone(t *testing.T) {
	moved := ledger.EncodeMoved("sec", ledger.New(1).Encode())
	if moved[0] <= 3 || moved[0] >= 32 {
		t.Errorf("begins with %d: versions up to 3 take that for a register of theirs, or for none", moved[0])
	}
	r := ledger.New(1)
	r.Absorb(ledger.New(2), "data", simStart)
	if shared := r.Encode(); shared[0] != 4 {
		t.Errorf("a quota's begins with %d", shared[0])
	}
}

// A quota's register that is gone has been lost: it counts as full, and all who
// share it are in the new one again.
func TestALostQuota(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.register("data", "www")
		data, www := b.open("w1", ofQuota("data")), b.open("w1", ofQuota("www"))
		first := b.spend(data, www)
		calls := time.Now()
		for _, damage := range []func() error{
			func() error { return b.kv.Purge(t.Context(), store.QuotaKey("sec")) },
			func() error {
				_, err := b.kv.Put(t.Context(), store.QuotaKey("sec"), []byte("what is this?"))
				return err
			},
			func() error { // and the provider's own too
				return errors.Join(b.kv.Purge(t.Context(), store.QuotaKey("sec")), b.kv.Purge(t.Context(), store.PermitsKey("data")))
			},
			func() error { return b.kv.Purge(t.Context(), store.PermitsKey("www")) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			if n := b.spend(data, www); n != 0 {
				t.Errorf("%d calls %v after %d of 8 a minute", n, time.Since(calls), first)
			}
			time.Sleep(3 * time.Minute)
			if first = b.spend(data, www); first != 8 {
				t.Errorf("%d calls when the window was over", first)
			}
			calls = time.Now()
		}
	})
}

// hooked is a bucket whose first write of a key halts until it may go on, and in
// which something is looked at after each write, before anybody's next.
type hooked struct {
	jetstream.KeyValue
	key       string // empty: none halts
	once      sync.Once
	halts     chan struct{}
	continues chan struct{}
	turn      chan struct{} // holds one while somebody writes
	after     func()
}

func (h *hooked) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if key == h.key {
		h.once.Do(func() {
			close(h.halts)
			<-h.continues
		})
	}
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	defer h.after()
	return h.KeyValue.Update(context.WithoutCancel(ctx), key, value, rev)
}

func (h *hooked) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	defer h.after()
	return h.KeyValue.Create(context.WithoutCancel(ctx), key, value, opts...)
}

// However the steps of one who moves a provider into a quota and of one who
// moves it out fall between each other, its permits are never counted in two
// places at once.
func TestOneMovesInWhileAnotherMovesOut(t *testing.T) {
	for _, halted := range []struct {
		name, key string
		in        bool // who halts before writing key
	}{
		{"out before its own register", store.PermitsKey("data"), false},
		{"out before the quota's", store.QuotaKey("sec"), false},
		{"in before its own register", store.PermitsKey("data"), true},
		{"in before the quota's", store.QuotaKey("sec"), true},
	} {
		t.Run(halted.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, b *bench) {
				b.register("data")
				open := func(name string, kv jetstream.KeyValue, in bool) *Gate {
					s := Settings{Provider: "data", Worker: name, Limits: perMinute(8)}
					if in {
						s.Quota = "sec"
					}
					g, err := Open(t.Context(), b.js, kv, s, nil)
					if err != nil {
						t.Fatal(err)
					}
					b.gates = append(b.gates, g)
					return g
				}
				if !halted.in { // there is something to move out of
					first := open("w0", b.kv, true)
					time.Sleep(time.Second)
					first.Close()
				}
				after := func() {
					own, _, err := store.Get(t.Context(), store.At(b.kv, store.PermitsKey("data")))
					if err != nil {
						t.Error(err)
					}
					shared, _, err := store.Get(t.Context(), store.At(b.kv, store.QuotaKey("sec")))
					if err != nil {
						t.Error(err)
					}
					_, mine := ledger.Decode(own)
					r, err := ledger.Decode(shared)
					if mine == nil && err == nil && r.Has("data") {
						t.Error("the provider's permits are counted in two places")
					}
				}
				turn := make(chan struct{}, 1)
				h := &hooked{KeyValue: b.kv, key: halted.key, halts: make(chan struct{}), continues: make(chan struct{}), turn: turn, after: after}
				one := open("w1", h, halted.in)
				<-h.halts
				other := open("w2", &hooked{KeyValue: b.kv, turn: turn, after: after}, !halted.in)
				time.Sleep(4 * homeEach)
				if n := b.spend(other); n != 8 {
					t.Errorf("the other made %d calls of 8", n)
				}
				close(h.continues)
				settle()
				if n := b.spend(one, other); n != 0 {
					t.Errorf("%d calls after 8 of 8 a minute", n)
				}
			})
		})
	}
}

// Groups of one provider are nothing to the others of its quota, which know
// nothing of them.
func TestGroupsOfAQuota(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.register("data", "www")
		data := b.open("w1", func(s *Settings) {
			ofQuota("data")(s)
			s.Limits = perMinute(100)
			s.Groups = map[string]turns.Group{"deep": {Limits: perMinute(2), Dearest: 1}}
		})
		www := b.open("w2", func(s *Settings) {
			ofQuota("www")(s)
			s.Limits = perMinute(100)
		})
		for range 2 {
			b.begin(data, turns.Ask{Group: "deep"}).Done(Report{Outcome: Success, Remaining: -1})
		}
		for range 20 {
			b.call(www, Success, "")
			b.call(data, Success, "")
		}
		_, err := data.Acquire(t.Context(), turns.Ask{Group: "deep"})
		var closed *ClosedError
		if !errors.As(err, &closed) || closed.Reason != fetchworker.ReasonQuota || !strings.HasSuffix(closed.Detail, ": deep") {
			t.Errorf("the third of 2 a minute: %v %+v", err, closed)
		}
		v, err := fleet.Watch(t.Context(), b.js, b.kv)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if g := v.Provider("data", v.Now()).Groups; len(g) != 1 || g[0].Group != "deep" || g[0].Left != 0 {
			t.Errorf("of data: %+v", g)
		}
		if p := v.Provider("www", v.Now()); len(p.Groups) != 0 || p.Windows[0].Left != 58 {
			t.Errorf("of www: %+v", p)
		}
	})
}

// A fleet of which each worker has another catalogue never makes more calls
// than the quota has, whoever comes and goes.
func TestCataloguesThatChange(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.register("data", "www")
		var calls []time.Time
		for round := range 8 {
			quota := "sec"
			if round%2 == 1 {
				quota = ""
			}
			g := b.open("w"+string(rune('a'+round)), func(s *Settings) {
				ofQuota("data")(s)
				s.Quota = quota
			})
			if quota != "" {
				b.lives(fleet.Worker{Name: "w" + string(rune('a'+round)), Quotas: map[string]string{"data": quota}})
			}
			for range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				p, err := g.Acquire(ctx, turns.Ask{Alone: true, Shard: len(calls)})
				cancel()
				if err == nil && p.Start() == nil {
					calls = append(calls, time.Now())
					p.Done(Report{Outcome: Success, Remaining: -1})
				}
				time.Sleep(time.Second)
			}
			g.Close()
		}
		for i := range calls {
			n := 0
			for _, at := range calls[i:] {
				if at.Sub(calls[i]) < time.Minute {
					n++
				}
			}
			if n > 8 {
				t.Fatalf("%d calls in the minute after %v", n, calls[i])
			}
		}
		if len(calls) < 30 {
			t.Errorf("only %d calls", len(calls))
		}
	})
}
