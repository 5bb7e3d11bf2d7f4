package ledger

import (
	"slices"
	"testing"
	"time"
)

// TestHowLongThingsLast: what is in a register lasts to its bound and no
// longer.
func TestHowLongThingsLast(t *testing.T) {
	shapes := NewShapes(Limits{{60, time.Minute}})
	throttled := New(1)
	throttled.Throttled(noon, "", time.Second, 0, 0)
	tried, trial, _ := throttled.Claim(shapes, noon.Add(2*time.Second), Order{Class: Light, Want: 1, Owner: "a", TrialTime: 35 * time.Second})
	for name, c := range map[string]struct {
		lasts func(now Instant) bool
		until Instant
	}{
		"a trial, for as long as its call may take": {
			lasts: func(now Instant) bool {
				_, blocks, _ := tried.Claim(shapes, now, Order{Class: Light, Want: 1, Owner: "b", TrialTime: 35 * time.Second})
				return len(blocks) == 0
			},
			until: trial[0].Until.Add(35 * time.Second),
		},
		"a longer window, until all that was claimed in it is out of it": {
			lasts: func(now Instant) bool {
				w := window{grace: 200 * time.Millisecond, graceAt: noon}
				return w.stretch(newShape(Window{2, time.Second}), now) > 0
			},
			until: noon.Add(newShape(Window{2, time.Second}).stretched(200*time.Millisecond).span + keep + furthest(mostDearer)),
		},
		"a number of calls at once, for an hour after somebody had it": {
			lasts: func(now Instant) bool {
				r := New(1)
				r.Sit(SeatOrder{Owner: "a", Most: 3, Want: 1, Term: time.Minute}, noon)
				return r.AtOnce(0, now) == 3
			},
			until: noon.Add(time.Hour),
		},
		"what a loss holds back of the calls at once": {
			lasts: func(now Instant) bool {
				r := Lost(1, shapes, 0, noon)
				r.Sit(SeatOrder{Owner: "a", Most: 3, Want: 2, Term: time.Minute}, now)
				n, _ := r.Seats("a")
				return n == 0
			},
			until: noon.Add(furthest(0) + time.Minute),
		},
	} {
		for _, off := range []time.Duration{-10 * time.Second, -2 * time.Millisecond} {
			if !c.lasts(c.until.Add(off)) {
				t.Errorf("%s: over %v too soon", name, -off)
			}
		}
		for _, off := range []time.Duration{2 * time.Millisecond, 10 * time.Second} {
			if c.lasts(c.until.Add(off)) {
				t.Errorf("%s: still there %v after its end", name, off)
			}
		}
	}
}

// TestWhatAProviderBringsAlong: whoever joins a quota brings along all that its
// own register remembers, of every kind: forgotten, it would be called for again.
func TestWhatAProviderBringsAlong(t *testing.T) {
	limits := Limits{{60, time.Minute}}
	shapes := slices.Concat(NewShapes(limits), GroupShapes(Limits{{20, time.Minute}}, "news"))
	light := Order{Class: Light, Want: 7, Patience: patient}
	joined := func(own *Register) *Register {
		r, _, _ := New(9).Claim(NewShapes(limits), noon, Order{Class: Light, Want: 5, Patience: patient})
		if !r.Absorb(own, "data", noon) || r.Absorb(own, "data", noon) {
			t.Error("it joins once")
		}
		r, err := Decode(r.Encode())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, c := range map[string]struct {
		own func(*Register) *Register
		see func(r *Register) bool
	}{
		"permits": {
			func(own *Register) *Register { own, _, _ = own.Claim(shapes, noon, light); return own },
			func(r *Register) bool { return r.Left(NewShapes(limits), noon) == 60-5-7 },
		},
		"permits of a group": {
			func(own *Register) *Register {
				o := light
				o.Group = "news"
				own, _, _ = own.Claim(shapes, noon, o)
				return own
			},
			func(r *Register) bool {
				left, _, _ := r.Room(GroupShapes(Limits{{20, time.Minute}}, "data/news"), "data/news", noon.Add(time.Second), 0)
				return left == 20-7-5 // the quota's own may have been of the group
			},
		},
		"a hold": {
			func(own *Register) *Register { own.Throttled(noon, "", time.Minute, 0, 0); return own },
			func(r *Register) bool { return r.Hold == noon.Add(time.Minute) && r.Strikes == 1 },
		},
		"a loss": {
			func(*Register) *Register { return Lost(1, shapes, 0, noon) },
			func(r *Register) bool { return r.Left(NewShapes(limits), noon.Add(30*time.Second)) == 0 },
		},
		"who asked much": {
			func(own *Register) *Register {
				own, _, _ = own.Claim(shapes, noon, Order{Class: Light, Want: 7, Shards: []int{3, 3, 3, 3, 3, 3, 3}, Patience: patient})
				return own
			},
			func(r *Register) bool {
				return !r.Modest(NewShapes(limits), 3, noon) && r.Modest(NewShapes(limits), 4, noon)
			},
		},
		"calls at once": {
			func(own *Register) *Register {
				own.Sit(SeatOrder{Owner: "w", Most: 3, Want: 2, Use: 2, Term: time.Minute}, noon)
				return own
			},
			func(r *Register) bool {
				n, _ := r.Seats(Scoped("data", "w"))
				return r.AtOnce(0, noon) == 3 && r.Taken(noon) == 2 && n == 2
			},
		},
	} {
		if r := joined(c.own(New(1))); !c.see(r) {
			t.Errorf("%s: forgotten: %+v", name, r)
		}
		if c.see(joined(New(1))) {
			t.Errorf("%s: there although it brought none", name)
		}
	}
}

// TestAboveIsOfEveryWindow: a limit lets through as many as its windows that
// can begin in one of the others' do.
func TestAboveIsOfEveryWindow(t *testing.T) {
	of := func(text string) Limits {
		l, err := ParseLimits(text)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, c := range []struct {
		ours, others string
		want         bool
	}{
		{"60/min", "60/min", false},
		{"61/min", "60/min", true},
		{"59/min", "60/min", false},
		{"10/40s", "15/min", true},  // two begin in a minute
		{"10/40s", "20/min", false}, // and no third
		{"1/s", "60/min", false},
		{"2/s", "60/min", true},
		{"2/s,60/min", "60/min", false}, // the other bounds it
		{"60/min,2/s", "60/min", false},
		{"100/d", "60/min", true},
		{"unlimited", "60/min", true},
		{"60/min", "unlimited", false},
		{"60/min", "60/min,100/d", true},
	} {
		if got := of(c.ours).Above(of(c.others)); got != c.want {
			t.Errorf("%s above %s: %v", c.ours, c.others, got)
		}
	}
}
