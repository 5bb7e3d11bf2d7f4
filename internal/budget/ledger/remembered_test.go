package ledger

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// TestALongerGraceMovesAlong: who knows the time badly makes a window longer for
// everybody, wherever its permits come to be counted.
func TestALongerGraceMovesAlong(t *testing.T) {
	shapes := NewShapes(Limits{{20, time.Second}})
	own, _, _ := New(1).Claim(shapes, start, Order{Class: Light, Want: 15, Patience: patient, Unsure: 150 * time.Millisecond})
	now := start.Add(10 * time.Millisecond)
	merged, joined, asked := New(1), New(9), New(9)
	asked.Touch(shapes, now)
	if !merged.Merge(own, now) || !joined.Absorb(own, "x", now) || !asked.Absorb(own, "x", now) {
		t.Fatal("nothing to remember")
	}
	for name, r := range map[string]*Register{"remembered": merged, "in a new quota": joined, "in a quota": asked, "out of it again": asked.Part("x", 2)} {
		for after := time.Duration(0); after < 3*time.Second; after += 10 * time.Millisecond {
			if left, want := r.Left(shapes, now.Add(after)), own.Left(shapes, now.Add(after)); left > want {
				t.Errorf("%s, after %v: %d left, and %d were", name, after, left, want)
				break
			}
		}
		if left := r.Left(shapes, now.Add(3*time.Second)); left != 20 {
			t.Errorf("%s: %d left in the end", name, left)
		}
	}
}

// TestTheGroupsOfAQuota are known by their provider's name as long as they are in
// it, count what their own calls came to, and go with their provider.
func TestTheGroupsOfAQuota(t *testing.T) {
	shapes := slices.Concat(NewShapes(Limits{{60, time.Minute}}), GroupShapes(Limits{{30, time.Minute}}, "a"))
	filled := func(group, all int) *Register {
		r := New(1)
		r.Touch(shapes, start)
		r.Record(shapes, "a", start, group, start)
		r.Record(shapes, "", start, all, start)
		return r
	}
	now := start.Add(time.Second)
	r := New(9)
	r.Touch(shapes[:1], start)
	r.Absorb(filled(3, 5), "x", now)
	r.Absorb(filled(4, 6), "y", now)
	for provider, want := range map[string]int{"x": 3, "y": 4 + 8} { // what was counted before y came may have been its, too
		usage := r.UsageOfGroups(provider, now)
		if len(usage) != 1 || usage[0].Group != "a" || usage[0].Left != 30-want {
			t.Errorf("%s in the quota: %+v, want %d used of its own group", provider, usage, want)
		}
		left := r.Part(provider, 7)
		usage = left.UsageOfGroups("", now)
		if len(usage) != 1 || usage[0].Group != "a" || usage[0].Left != 30-want || left.Left(shapes[:1], now) != 60-18 {
			t.Errorf("%s out of it: %+v, %d left of all", provider, usage, left.Left(shapes[:1], now))
		}
	}
	if got := r.Members(); !slices.Equal(got, []string{"x", "y"}) || r.Left(shapes[:1], now) != 60-18 {
		t.Errorf("%v, %d left of all", got, r.Left(shapes[:1], now))
	}
	again := r.Clone() // x was taken out with a register of another epoch, and comes back
	again.Absorb(r.Part("x", 7), "x", now)
	if got := again.Members(); !slices.Equal(got, []string{"x", "y"}) {
		t.Errorf("%v: who comes back is a member once", got)
	}
}

// TestWhatALossLeaves: a register that stands in for a lost quota's is the same
// providers', and bounds their calls at once as before; one that is set back to
// before a loss counts as lost, too.
func TestWhatALossLeaves(t *testing.T) {
	shapes := NewShapes(Limits{{60, time.Minute}})
	before := New(9)
	before.Absorb(New(1), "x", start)
	before.Sit(SeatOrder{Owner: "w", Most: 3, Want: 1, Term: time.Minute}, start)
	now := start.Add(time.Minute)
	lost := Lost(5, shapes, 0, now)
	lost.Keep(before)
	if !lost.Has("x") || lost.AtOnce(0, now) != 3 || !lost.Akin(before) || !before.Akin(lost) {
		t.Errorf("%v, %d at once", lost.Members(), lost.AtOnce(0, now))
	}
	if Lost(5, shapes, 0, now).Akin(before) || !New(9).Akin(before) || New(9).Akin(New(8)) {
		t.Error("what has neither an epoch nor a provider in common is akin")
	}
	back := New(5)
	back.Touch(shapes, now)
	if !back.Merge(lost, now.Add(time.Second)) || back.Left(shapes, now.Add(2*time.Second)) != 0 {
		t.Errorf("%d left after a loss that was set back", back.Left(shapes, now.Add(2*time.Second)))
	}
	if back.Merge(lost, now.Add(time.Second)) {
		t.Error("a loss is remembered twice")
	}
}

// TestWhereAProviderHasMoved is told to those who look for its own register, and
// nothing that is cut short or something else is taken for it.
func TestWhereAProviderHasMoved(t *testing.T) {
	own := New(7).Encode()
	moved := EncodeMoved("shared", own)
	quota, was, ok := DecodeMoved(moved)
	if !ok || quota != "shared" || string(was) != string(own) {
		t.Errorf("%q, %v, %v", quota, was, ok)
	}
	var elsewhere *MovedError
	if _, err := Decode(moved); !errors.As(err, &elsewhere) || elsewhere.Quota != "shared" || !errors.Is(err, ErrNewer) {
		t.Errorf("%v", err)
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "a register": own, "its first byte": moved[:1], "half a name": moved[:4], "no name": EncodeMoved("", own),
	} {
		if quota, was, ok := DecodeMoved(b); ok {
			t.Errorf("%s: %q, %v", name, quota, was)
		}
		if _, err := Decode(b); errors.As(err, &elsewhere) || err == nil != (name == "a register") || errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestALongerGraceIsRememberedBesideAnothersCall: a window that is set back is as
// long as it was also where another has claimed as many in it meanwhile.
func TestALongerGraceIsRememberedBesideAnothersCall(t *testing.T) {
	shapes := NewShapes(Limits{{20, time.Second}})
	backup := New(1)
	backup.Touch(shapes, start.Add(-10*time.Second))
	known, _, _ := backup.Claim(shapes, start, Order{Class: Light, Want: 1, Patience: patient, Unsure: 100 * time.Millisecond})
	back, _, _ := backup.Claim(shapes, start, Order{Class: Light, Want: 1, Patience: patient})
	now := start.Add(10 * time.Millisecond)
	if !back.Merge(known, now) || back.Merge(known, now) {
		t.Error("it is remembered once")
	}
	for after := time.Duration(0); after < 3*time.Second; after += 10 * time.Millisecond {
		if left, want := back.Left(shapes, now.Add(after)), known.Left(shapes, now.Add(after)); left > want {
			t.Fatalf("after %v: %d left, and %d were", after, left, want)
		}
	}
}
