package dlq

import (
	"container/heap"
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
