package dlq

import (
	"container/heap"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
)

// Agents are told another time once it differs enough and a while has passed,
// to sooner as well as to later; and what is remembered of them is bounded.
func TestWhatAgentsAreTold(t *testing.T) {
	now := time.Now()
	w := newWaiters()
	of := func(d time.Duration) verdict {
		return verdict{reason: fetchworker.ReasonPaused, retryAt: now.Add(d)}
	}
	if !w.untold(1, of(time.Minute), now) {
		t.Error("it has not been told yet")
	}
	w.tell(1, fetchworker.ReasonPaused, now.Add(time.Minute), now)
	later := now.Add(10 * time.Second)
	for d, want := range map[time.Duration]bool{time.Minute: false, 63 * time.Second: false, 2 * time.Minute: true, 20 * time.Second: true} {
		if got := w.untold(1, of(d), later); got != want {
			t.Errorf("in %v instead of a minute: %t", d, got)
		}
		if w.untold(1, of(d), now.Add(time.Second)) {
			t.Errorf("in %v: told again after a second", d)
		}
	}
	few := w.delay(shortestLook, longestLook)
	if few < shortestLook || few > longestLook {
		t.Errorf("one letter is looked at again in %v", few)
	}
	for sequence := range uint64(waitersKept + 10) {
		w.tell(sequence, fetchworker.ReasonPaused, now, now)
	}
	if len(w.told) > waitersKept {
		t.Errorf("%d are remembered", len(w.told))
	}
	// So many are looked at, and told another time, as the others bear.
	if back, least := w.delay(shortestLook, longestLook), waitersKept*time.Second/looksPerSecond/2; back < least {
		t.Errorf("%d letters are looked at again in %v", len(w.told), back)
	}
	w.tell(7, fetchworker.ReasonPaused, now.Add(time.Minute), now)
	all := waitersKept * time.Second / tellsPerSecond
	for after, want := range map[time.Duration]bool{10 * time.Second: false, all - time.Minute: false, all + time.Minute: true} {
		if got := w.untold(7, of(3*time.Hour), now.Add(after)); got != want {
			t.Errorf("one of %d is told another time after %v: %t", len(w.told), after, got)
		}
	}
}

// Letters whose agents could not be told at once are looked at in turn: so many
// a second and no more, however many there are and however long it goes on, and
// few of them soon.
func TestAgentsThatAreYetToBeToldAreLookedUpInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, came, looks := newWaiters(), &times{}, map[int]int{}
		began := time.Now()
		for i := range 120_000 { // a thousand a second
			time.Sleep(time.Millisecond)
			for came.Len() > 0 && !(*came)[0].After(time.Now()) {
				heap.Pop(came)
				looks[int(time.Since(began)/time.Second)]++
				heap.Push(came, time.Now().Add(w.untoldYet())) // there was no turn for it
			}
			back := w.untoldYet()
			if i == 0 && (back < time.Second || back > 4*time.Second) {
				t.Errorf("the first one is looked at in %v", back)
			}
			heap.Push(came, time.Now().Add(back))
		}
		for second, n := range looks {
			if n > 2*tellsLookedUp {
				t.Errorf("%d looks in second %d", n, second)
			}
		}
		if !w.crowd() {
			t.Error("a hundred thousand are no crowd")
		}
	})
}

// Of letters that were parked just now few are looked at again as soon as they
// have rested, and a crowd in turn: while it is still being parked hardly any is.
func TestACrowdThatIsParkedComesBackInTurn(t *testing.T) {
	for _, c := range []struct{ n, aSecond, soon int }{
		{1, 1, 1}, {10, 1000, 10}, {200, 4000, 200}, {1000, 100, 1000}, {10_000, 4000, 1200}, {100_000, 4000, 8000},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, began := newWaiters(), time.Now()
			parked, backs := time.Duration(0), make([]time.Duration, 0, c.n)
			for range c.n {
				back := w.settling(settle)
				if back < settle {
					t.Fatalf("of %d one comes back within %v", c.n, back)
				}
				backs = append(backs, time.Since(began)+back)
				time.Sleep(time.Second / time.Duration(c.aSecond))
				parked = time.Since(began)
			}
			slices.Sort(backs)
			soon := 0
			for i, at := range backs {
				if at <= parked+settle {
					soon++
				}
				if before := i - 2*tellsLookedUp; c.n > 1000 && before >= 0 && at-backs[before] < time.Second {
					t.Fatalf("of %d more than %d come back in the second before %v", c.n, 2*tellsLookedUp, at)
				}
			}
			if full := c.n < 1000 || c.aSecond < tellsLookedUp; full && soon != c.n || soon > c.soon {
				t.Errorf("of %d, %d a second, %d come back within %v", c.n, c.aSecond, soon, parked+settle)
			}
			if last, most := backs[c.n-1], parked+settle+time.Duration(c.n)*time.Second/tellsLookedUp; last > most {
				t.Errorf("of %d the last comes back after %v", c.n, last)
			}
		})
	}
}

// times is a heap of them.
type times []time.Time

func (t *times) Len() int           { return len(*t) }
func (t *times) Less(i, j int) bool { return (*t)[i].Before((*t)[j]) }
func (t *times) Swap(i, j int)      { (*t)[i], (*t)[j] = (*t)[j], (*t)[i] }
func (t *times) Push(x any) {
	if at, is := x.(time.Time); is {
		*t = append(*t, at)
	}
}

func (t *times) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}
