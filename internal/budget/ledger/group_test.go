package ledger

import (
	"slices"
	"testing"
	"time"
)

// A call that costs more than its window ever has is not waited for: it is
// looked at again later, when the limit may have been raised.
func TestACallThatCostsMoreThanItsWindow(t *testing.T) {
	shapes := NewShapes(Limits{{N: 5, Per: time.Minute}})
	order := Order{Class: Light, Cost: 6, Want: 1, Patience: patient}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, blocks, at := New(1).Claim(shapes, start, order)
		if len(blocks) > 0 || at.Sub(start) < time.Minute {
			t.Errorf("%+v, the next in %v", blocks, at.Sub(start))
		}
		if d := New(1).Next(shapes, order, start).Sub(start); d < time.Minute {
			t.Errorf("the next in %v", d)
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second): //nolint:forbidigo // it may have no end
		t.Fatal("it is looked for until the end of time")
	}
}

// What a provider says of its own count is of all its calls: no group's window
// is meant, however short it is.
func TestForeignCallsAreOfNoGroup(t *testing.T) {
	shapes := slices.Concat(NewShapes(Limits{{N: 100, Per: time.Hour}}), GroupShapes(Limits{{N: 10, Per: time.Minute}}, "deep"))
	r := New(1)
	r.Touch(shapes, start)
	if n := r.Foreign(shapes, Told{At: start, Left: 40}, start); n != 60 {
		t.Errorf("%d booked of 60", n)
	}
	for _, u := range r.Usage(shapes, start) {
		if want := map[string]int{"": 40, "deep": 10}[u.Group]; u.Left != want {
			t.Errorf("%d left of %q, of %d", u.Left, u.Group, want)
		}
	}
}

// A group's new limit knows of the calls that count in it, and of no others.
func TestANewLimitOfAGroup(t *testing.T) {
	deep := GroupShapes(Limits{{N: 5, Per: time.Hour}}, "deep")
	r, blocks, _ := New(1).Claim(deep, start, Order{Class: Light, Group: "deep", Want: 5, Patience: patient})
	if len(blocks) == 0 {
		t.Fatal("nothing claimed")
	}
	both := slices.Concat(deep, GroupShapes(Limits{{N: 5, Per: time.Minute}}, "wide"))
	now := start.Add(2 * time.Second)
	for _, u := range r.Usage(both, now) {
		if want := map[string]int{"deep": 0, "wide": 5}[u.Group]; u.Left != want {
			t.Errorf("%d left of %s, of %d", u.Left, u.Group, want)
		}
	}
}

// Limits that were replaced count for a while, and are told of no more.
func TestALimitThatIsNoneAnyMore(t *testing.T) {
	order := Order{Class: Light, Want: 1, Patience: patient}
	r, _, _ := New(1).Claim(NewShapes(Limits{{N: 100, Per: 24 * time.Hour}}), start, order)
	now := start.Add(2 * time.Minute)
	r, _, _ = r.Claim(NewShapes(Limits{{N: 60, Per: time.Minute}}), now, order)
	if got := r.Limits().String(); got != "60/min" {
		t.Errorf("the limits are %s", got)
	}
	if len(r.windows) != 2 {
		t.Errorf("%d windows are kept", len(r.windows))
	}
}
