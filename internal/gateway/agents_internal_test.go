package gateway

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
)

// The newest requests are remembered, and no more than there is room for.
func TestTheNewestRequestsAreKnown(t *testing.T) {
	l := newLately()
	id := func(n int) fetchworker.Identity { return fetchworker.Identity{ID: strconv.Itoa(n)} }
	for n := range 2 * mostLately {
		l.note(id(n))
		if n%997 == 0 {
			for _, back := range []int{0, 1, mostLately/2 - 1} {
				if n >= back && !l.asked(id(n-back)) {
					t.Fatalf("after %d the one %d before is unknown", n, back)
				}
			}
			if l.asked(id(n + 1)) {
				t.Fatal("one that was never asked is known")
			}
			if kept := len(l.now) + len(l.old); kept > mostLately {
				t.Fatalf("%d are kept", kept)
			}
		}
	}
}

// An agent has one client as long as anybody uses it, and for five minutes
// more; where there are too many, those go that nobody uses, the longest idle
// first.
func TestAgentsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		a := newAgents(b.NC)
		use := func(name string) (*agent, func()) {
			t.Helper()
			one, leave, err := a.use(name)
			if err != nil {
				t.Fatal(err)
			}
			return one, leave
		}
		known := func() int {
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.byName)
		}
		first, leave := use("alice")
		second, leaveToo := use("alice")
		if first != second {
			t.Error("an agent has two clients")
		}
		leave()
		leave() // again is nothing
		time.Sleep(2 * agentIdle)
		if known() != 1 {
			t.Error("an agent that is in use is forgotten")
		}
		leaveToo()
		time.Sleep(agentIdle - time.Second)
		if third, leave := use("alice"); third != first {
			t.Error("an agent is forgotten too soon")
		} else {
			leave()
		}
		time.Sleep(agentIdle - time.Second)
		if known() != 1 {
			t.Error("it is forgotten since its first use")
		}
		time.Sleep(2 * time.Second)
		if known() != 0 {
			t.Error("an idle agent is not forgotten")
		}
		var leaves []func()
		for n := range mostAgents {
			_, leave := use(fmt.Sprint("agent-", n))
			leaves = append(leaves, leave)
		}
		if _, _, err := a.use("one-more"); !errors.Is(err, errTooManyAgents) {
			t.Errorf("one more than there may be: %v", err)
		}
		if _, leave := use("agent-7"); known() != mostAgents {
			t.Error("one of them is not served")
		} else {
			leave()
		}
		for _, n := range []int{5, 3, 9} {
			leaves[n]()
			time.Sleep(time.Second)
		}
		for _, n := range []int{5, 3, 9} {
			_, leave := use(fmt.Sprint("more-", n))
			defer leave()
			a.mu.Lock()
			_, still := a.byName[fmt.Sprint("agent-", n)]
			a.mu.Unlock()
			if still || known() != mostAgents {
				t.Errorf("agent-%d, idle for longest, is still there: %t of %d", n, still, known())
			}
		}
		a.close()
		if _, _, err := a.use("alice"); !errors.Is(err, fetchworker.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}
