package ledger

import (
	"slices"
	"testing"
	"time"
)

// used is how many units of a register's windows are used by now, by group and
// length.
func used(r *Register, shapes []Shape, now Instant) map[string]int {
	n := map[string]int{}
	for _, u := range r.Usage(shapes, now) {
		n[u.Group+" "+u.Per.String()] = u.N - u.Left
	}
	return n
}

// TestWhatACallCountsIn: a call counts in every window of its provider's and of
// its group's, as often as it costs; in those of a group that its caller knows
// nothing of, since it may be one of that; and in no other. What is given back
// is taken out of those that it was certainly counted in for itself.
func TestWhatACallCountsIn(t *testing.T) {
	all := NewShapes(Limits{{60, time.Minute}, {600, time.Hour}})
	a, b := GroupShapes(Limits{{30, time.Minute}}, "a"), GroupShapes(Limits{{30, time.Hour}}, "b")
	whole := slices.Concat(all, a, b)
	at := start.Add(time.Second)
	for name, c := range map[string]struct {
		shapes []Shape // the caller's
		group  string
		cost   int
		want   map[string]int // counted
		back   map[string]int // left of it when it is given back
	}{
		"of no group":               {whole, "", 0, map[string]int{" 1m0s": 4, " 1h0m0s": 4}, nil},
		"of a group":                {whole, "a", 1, map[string]int{" 1m0s": 4, " 1h0m0s": 4, "a 1m0s": 4}, nil},
		"of another, dear":          {whole, "b", 3, map[string]int{" 1m0s": 12, " 1h0m0s": 12, "b 1h0m0s": 12}, nil},
		"of one without limits":     {whole, "c", 2, map[string]int{" 1m0s": 8, " 1h0m0s": 8}, nil},
		"who knows of no group":     {all, "", 1, map[string]int{" 1m0s": 4, " 1h0m0s": 4, "a 1m0s": 4, "b 1h0m0s": 4}, map[string]int{"a 1m0s": 4, "b 1h0m0s": 4}},
		"who knows of one, of that": {slices.Concat(all, a), "a", 1, map[string]int{" 1m0s": 4, " 1h0m0s": 4, "a 1m0s": 4, "b 1h0m0s": 4}, map[string]int{"b 1h0m0s": 4}},
	} {
		r := New(1)
		r.Touch(whole, start)
		r, blocks, _ := r.Claim(c.shapes, start, Order{Class: Light, Group: c.group, Cost: c.cost, Want: 4, Patience: patient})
		if len(blocks) != 1 || blocks[0].N != 4 || blocks[0].Units() != 4*max(c.cost, 1) || blocks[0].Group != c.group || blocks[0].Class != Light || blocks[0].Epoch != 1 {
			t.Fatalf("%s: %+v", name, blocks)
		}
		same := func(what string, r *Register, want map[string]int) {
			t.Helper()
			for window, n := range used(r, whole, at) {
				if n != want[window] {
					t.Errorf("%s, %s: %d in %q, want %d", name, what, n, window, want[window])
				}
			}
		}
		same("claimed", r, c.want)
		// Without a limit of their own its calls are recorded in the same windows.
		recorded := New(1)
		recorded.Touch(whole, start)
		if !recorded.Counts(c.shapes, c.group) {
			t.Errorf("%s: it need not be recorded", name)
		}
		recorded.Record(c.shapes, c.group, start, 4*max(c.cost, 1), start)
		same("recorded", recorded, c.want)
		r.GiveBack([]Refund{{At: blocks[0].From, N: blocks[0].Units(), Epoch: 2, Group: c.group}}, c.shapes)
		same("given back to another register", r, c.want)
		r.GiveBack([]Refund{{At: blocks[0].From, N: blocks[0].Units(), Epoch: 1, Group: c.group}}, c.shapes)
		same("given back", r, c.back)
	}
	if New(1).Counts(nil, "") {
		t.Error("a call must be recorded where nobody has a limit")
	}
}

// TestAProvidersGroupsAreItsOwn: of providers that share a quota each counts its
// calls in the quota's windows and in those of its own groups; another's group
// of the same name is none of its.
func TestAProvidersGroupsAreItsOwn(t *testing.T) {
	all := NewShapes(Limits{{60, time.Minute}})
	mine := slices.Concat(all, GroupShapes(Limits{{30, time.Minute}}, "x/a"))
	other := slices.Concat(all, GroupShapes(Limits{{30, time.Minute}}, "y/a"))
	whole := slices.Concat(mine, other[1:])
	for group, want := range map[string]map[string]int{
		"x/a": {" 1m0s": 5, "x/a 1m0s": 5}, "x/": {" 1m0s": 5}, "y/a": {" 1m0s": 5, "y/a 1m0s": 5},
	} {
		r := New(1)
		r.Touch(mine, start)
		r.Touch(other, start)
		shapes := mine
		if scope(group) == "y" {
			shapes = other
		}
		r, _, _ = r.Claim(shapes, start, Order{Class: Light, Group: group, Want: 5, Patience: patient})
		for window, n := range used(r, whole, start.Add(time.Second)) {
			if n != want[window] {
				t.Errorf("a call of %s: %d in %q, want %d", group, n, window, want[window])
			}
		}
		for _, u := range r.UsageOfGroups("x", start.Add(time.Second)) {
			if u.Group != "a" || u.N-u.Left != want["x/a 1m0s"] || u.LastMinute != want["x/a 1m0s"] {
				t.Errorf("a call of %s: x is told of %+v", group, u)
			}
		}
		if n := len(r.UsageOfGroups("x", start.Add(time.Second))); n != 1 {
			t.Errorf("x is told of %d groups, and has one", n)
		}
	}
}

// TestHowFarAheadADearCallIsClaimed: by what the pacer takes for the others of
// its units, in the slowest window that it counts in; but not where that is
// longer than anybody waits, and never by more than half a minute.
func TestHowFarAheadADearCallIsClaimed(t *testing.T) {
	shapes := slices.Concat(NewShapes(Limits{{60, time.Minute}}), GroupShapes(Limits{{30, time.Minute}}, "a"), GroupShapes(Limits{{6, 10 * time.Minute}}, "slow"))
	gap := func(group string) time.Duration {
		return shapes[slices.IndexFunc(shapes, func(s Shape) bool { return s.Group == group })].Gap
	}
	for _, c := range []struct {
		group string
		cost  int
		want  time.Duration
	}{
		{"", 0, 0},
		{"", 1, 0},
		{"", 2, gap("")},
		{"", 5, 4 * gap("")},
		{"other", 3, 2 * gap("")},
		{"a", 1, 0},
		{"a", 2, gap("a")},
		{"a", 4, 3 * gap("a")},
		{"a", 1000, mostDearer},
		{"slow", 2, 0},
		{"slow", 6, 0},
	} {
		if got := Dearer(shapes, c.group, c.cost); got != c.want {
			t.Errorf("a call of %q that costs %d: %v further ahead, want %v", c.group, c.cost, got, c.want)
		}
	}
}

// TestTheRoomOfAGroup is what its own windows have, of the tightest of them, and
// nothing of the provider's or of another's.
func TestTheRoomOfAGroup(t *testing.T) {
	shapes := slices.Concat(NewShapes(Limits{{3, time.Minute}}), GroupShapes(Limits{{60, time.Minute}, {90, time.Hour}}, "a"), GroupShapes(Limits{{2, time.Minute}}, "b"))
	minute, hour := shapes[1].Gap, shapes[2].Gap
	r := New(1)
	r.Touch(shapes, start)
	for _, c := range []struct {
		group  string
		used   int
		within time.Duration
		units  int
		gap    time.Duration
		ok     bool
	}{
		{"", 0, 0, 0, 0, false},
		{"c", 0, 0, 0, 0, false},
		{"a", 0, 0, 60, hour, true},
		{"b", 0, 0, 2, shapes[3].Gap, true},
		{"a", 10, 0, 50, hour, true},
		{"a", 10, 10 * time.Second, 50 + int(10*time.Second/minute), hour, true},
		{"a", 60, 10 * time.Minute, 30 + int(10*time.Minute/hour), hour, true},
	} {
		next := r.Clone()
		next.Record(shapes, c.group, start, c.used, start)
		units, gap, ok := next.Room(shapes, c.group, start.Add(time.Second), c.within)
		if units != c.units || gap != c.gap || ok != c.ok {
			t.Errorf("of %q, %d used, within %v: %d units, one each %v, %v; want %d, %v, %v", c.group, c.used, c.within, units, gap, ok, c.units, c.gap, c.ok)
		}
	}
	if _, _, ok := r.Room(shapes[:1], "a", start, 0); ok {
		t.Error("room of a group whose limits the claimer does not have")
	}
}

// TestLimitsAsTheyAreTyped: with spaces, in words, up to eight windows.
func TestLimitsAsTheyAreTyped(t *testing.T) {
	for text, want := range map[string]string{
		"unlimited": "unlimited", "0": "unlimited", "0/min": "unlimited", " 0 ": "unlimited", "\tunlimited\n": "unlimited",
		" 60/min , 2/s ": "60/min,2/s", "5/hour,6/day,7/minute,8/sec,9/second,1/h,2/m,3/d": "5/h,6/d,7/min,8/s,9/s,1/h,2/min,3/d",
		"1000000000/s": "1000000000/s", "1/8784h": "1/8784h", "1/1s": "1/s",
	} {
		if l, err := ParseLimits(text); err != nil || l.String() != want {
			t.Errorf("%q: %v, %v; want %s", text, l, err, want)
		}
	}
}

// TestAMomentThatNeverWas stays so.
func TestAMomentThatNeverWas(t *testing.T) {
	if InstantOf(time.Time{}) != 0 || !Instant(0).Time().IsZero() {
		t.Error("a time that is not known became one")
	}
	if at := time.Unix(1_800_000_000, 5); !InstantOf(at).Time().Equal(at) {
		t.Errorf("%v became %v", at, InstantOf(at).Time())
	}
}
