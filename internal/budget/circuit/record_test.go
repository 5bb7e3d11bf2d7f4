package circuit

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestNeverTwoProbes: workers that see the record late, die and come back
// never probe together, as long as a probe ends within its lease.
func TestNeverTwoProbes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const lease, open = 30 * time.Second, time.Minute
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		type view struct {
			c   Record
			rev int
		}
		names := []string{"w1", "w2", "w3"}
		record, rev := Record{Circuit: Circuit{State: Closed}}, 0
		views := map[string]view{}
		for _, n := range names {
			views[n] = view{c: record}
		}
		probes := map[string]time.Time{} // who probes, and when its call ends at the latest
		write := func(n string, edit func(Record) Record) bool {
			v := views[n]
			next := edit(v.c)
			if next.Equal(v.c) {
				return false
			}
			if v.rev != rev { // lost: read again
				views[n] = view{record, rev}
				return false
			}
			record, rev = next, rev+1
			views[n] = view{record, rev}
			return true
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := rapid.SampledFrom(names).Draw(t, "worker")
			for p, until := range probes {
				if !now.Before(until) {
					delete(probes, p)
				}
			}
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				request := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "request")
				write(n, func(c Record) Record {
					return c.Failed(Call{Agent: "a", Operation: "o", Key: request}, Failure, now, Policy{3, open})
				})
			case 1:
				write(n, func(c Record) Record { return c.Succeeded(Call{Agent: "a", Operation: "o"}, now) })
			case 2:
				if write(n, func(c Record) Record {
					return c.Claimed("o", Call{Agent: "a", Operation: "o", Key: n}, n, now, now.Add(lease))
				}) {
					probes[n] = now.Add(lease)
				}
			case 3:
				if _, probing := probes[n]; probing {
					o := Outcome(rapid.IntRange(0, int(Neutral)).Draw(t, "outcome"))
					for range 2 { // until it is stored
						write(n, func(c Record) Record {
							return c.Probed("o", Call{Agent: "a", Operation: "o", Key: n}, n, o, 0, now, Policy{3, open})
						})
					}
					delete(probes, n)
				}
			case 4:
				views[n] = view{record, rev} // the watch
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			}
			live := 0
			for _, until := range probes {
				if now.Before(until) {
					live++
				}
			}
			if live > 1 {
				t.Fatalf("%d probes at once: %v", live, probes)
			}
			if o := record.Operations; len(o) > 0 && len(o[0].Row) >= 3 && !o[0].Held() {
				t.Fatal("three failed and it is closed")
			}
		}
	})
}

// A change is made in a copy: whoever holds the record sees nothing of it.
func TestChangesAreMadeInACopy(t *testing.T) {
	c := Call{Agent: "alice", Operation: "quote", Key: "A"}
	r := Record{}
	for _, change := range []func(Record, time.Time) Record{
		func(r Record, now time.Time) Record { return r.Failed(c, Failure, now, policy) },
		func(r Record, now time.Time) Record { return r.Failed(c, Odd, now, policy) },
		func(r Record, now time.Time) Record {
			return r.Failed(Call{Agent: "bob", Operation: "quote", Key: "A"}, Failure, now, policy)
		},
		func(r Record, now time.Time) Record { return r.Spared(c, start, now, policy) },
		func(r Record, now time.Time) Record { return r.Claimed("", c, "w", now, now.Add(time.Minute)) },
		func(r Record, now time.Time) Record { return r.Probed("", c, "w", Failure, 1, now, policy) },
		func(r Record, now time.Time) Record { return r.Claimed("", c, "w", now, now.Add(time.Minute)) },
		func(r Record, now time.Time) Record { return r.Probed("", c, "w", Failure, 1, now, policy) },
		func(r Record, now time.Time) Record { return r.Succeeded(c, now) },
	} {
		before, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		now := start
		for _, at := range []time.Time{r.LastFailure, r.OpenUntil} {
			if at.After(now) {
				now = at
			}
		}
		next := change(r, now.Add(time.Hour))
		if after, err := r.Encode(); err != nil || string(after) != string(before) {
			t.Fatalf("%s\nbecame\n%s: %v", before, after, err)
		}
		r = next
	}
}

// Only whoever has the lease ends the probe, and one that died has it no longer
// than it was given.
func TestALeaseIsItsHoldersAndEnds(t *testing.T) {
	c, other := Call{Agent: "alice", Operation: "quote", Key: "A"}, Call{Agent: "bob", Operation: "quote", Key: "B"}
	r := Record{}
	for i, key := range []string{"A", "B", "C"} {
		r = r.Failed(Call{Agent: string(rune('a' + i)), Operation: "quote", Key: key}, Failure, start, policy)
	}
	if !r.Of("quote").Held() {
		t.Fatal("it is not open")
	}
	due := start.Add(policy.Open)
	r = r.Claimed("quote", c, "w1", due, due.Add(30*time.Second))
	if got := r.Claimed("quote", other, "w2", due.Add(29*time.Second), due.Add(time.Minute)); got.Of("quote").Prober != "w1" {
		t.Error("a lease that stands was taken")
	}
	died := due.Add(30 * time.Second)
	r = r.Claimed("quote", other, "w2", died, died.Add(30*time.Second))
	if k := r.Of("quote"); k.Prober != "w2" || k.State != HalfOpen {
		t.Fatalf("nobody follows a prober that died: %+v", k)
	}
	for _, o := range []Outcome{Failure, Throttled, Neutral, Unused} {
		if got := r.Probed("quote", c, "w1", o, 0, died.Add(time.Second), policy); !got.Equal(r) {
			t.Errorf("%d of one whose lease had ended: %+v", o, got.Of("quote"))
		}
	}
}

// A worker lets a call go as the fleet's record says: of what is open none
// before its time, of what is half open the prober's own and no second one.
func TestABreakerDoesAsTheRecordSays(t *testing.T) {
	const until = time.Minute
	for name, c := range map[string]struct {
		state  State
		prober string
		after  time.Duration
		want   int // calls that may start
	}{
		"closed":                         {Closed, "", 0, 3},
		"open":                           {Open, "", until - time.Second, 0},
		"open, and due":                  {Open, "", until + time.Second, 1},
		"half open, ours":                {HalfOpen, "w", 0, 1},
		"half open, ours, nearly over":   {HalfOpen, "w", until - time.Second, 1},
		"half open, another's":           {HalfOpen, "x", 0, 0},
		"half open, another's, too late": {HalfOpen, "x", until + time.Second, 1},
	} {
		for _, operation := range []string{"", "quote"} {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				k := Circuit{State: c.state, OpenedAt: now, OpenUntil: now.Add(until)}
				if c.state == HalfOpen {
					k.Prober, k.ProbeUntil = c.prober, now.Add(until)
				}
				r := Record{Circuit: Circuit{State: Closed}, Operations: []Operation{{Name: "quote"}}}
				if *r.circuit(operation) = k; operation != "" {
					r.State = Closed
				}
				b := NewBreaker()
				b.Follow(r, "w", now)
				time.Sleep(c.after + time.Millisecond) // a call takes some time to come
				for range 3 {                          // it is told again and again
					b.Follow(r, "w", time.Now())
				}
				may := 0
				for range 3 {
					if _, ok := b.Allow(operation); ok {
						may++
					}
				}
				if may != c.want {
					t.Errorf("%s, of %q: %d may start, want %d", name, operation, may, c.want)
				}
			})
		}
	}
}

// When the provider is back its operations are probed at once.
func TestWhatFailedWithTheProviderIsProbedWithIt(t *testing.T) {
	r := Record{}
	for _, agent := range []string{"a", "b", "c"} {
		r = r.Failed(Call{Agent: agent, Operation: "quote", Key: agent}, Failure, start, policy)
	}
	for _, agent := range []string{"a", "b", "c"} {
		r = r.Failed(Call{Agent: agent, Operation: "chart", Key: agent}, Unreached, start.Add(time.Second), policy)
	}
	if !r.Held() || !r.Of("quote").Held() {
		t.Fatalf("%q", open(r))
	}
	now := start.Add(2 * time.Second)
	r = r.Succeeded(Call{Agent: "a", Operation: "other", Key: "x"}, now)
	if r.Held() || !r.Of("quote").Due(now) {
		t.Errorf("%q, the next probe at %v", open(r), r.Of("quote").OpenUntil)
	}
}
