package ledger

import (
	"errors"
	"testing"
	"time"
)

const noon = Instant(1_800_000_000_000_000_000)

// TestWhatAThrottleSays: the longest of what was asked for counts, one strike a
// hold, and the wait doubles with each trial that fails.
func TestWhatAThrottleSays(t *testing.T) {
	r := New(1)
	r.Throttled(noon, "", time.Minute, 0, 0.5)
	if r.Hold != noon.Add(time.Minute) || r.Strikes != 1 {
		t.Fatalf("held for %v, %d strikes", r.Hold.Sub(noon), r.Strikes)
	}
	for range 5 { // what was on its way when the hold came
		r.Throttled(noon.Add(time.Second), "", time.Second, 0, 0.5)
		r.Throttled(noon.Add(time.Second), "", 0, 0, 0.5)
	}
	if r.Hold != noon.Add(time.Minute) || r.Strikes != 1 {
		t.Errorf("held for %v after shorter ones, %d strikes", r.Hold.Sub(noon), r.Strikes)
	}
	r.Throttled(noon.Add(time.Second), "", 2*time.Minute, 0, 0.5)
	if r.Hold != noon.Add(2*time.Minute+time.Second) {
		t.Errorf("held for %v after a longer one", r.Hold.Sub(noon))
	}
	if r.Throttled(noon, "", 31*24*time.Hour, 0, 0.5); r.Hold > noon.Add(25*time.Hour) {
		t.Errorf("held for %v", r.Hold.Sub(noon))
	}
	r = New(1)
	if r.Throttled(noon, "", time.Second, time.Hour, 0.5); r.Hold != noon.Add(time.Hour) {
		t.Errorf("held for %v, and this kind needs an hour", r.Hold.Sub(noon))
	}
}

// TestWaitsDoubleAndSpread: without a Retry-After the wait is drawn around one
// second, then two, and so on, up to a quarter of an hour.
func TestWaitsDoubleAndSpread(t *testing.T) {
	of := func(strikes int, jitter float64) time.Duration {
		r := New(1)
		for range strikes {
			r.trial = trial{owner: "w"}
			r.Hold = 0
			r.Throttled(noon, "w", 0, 0, jitter)
		}
		return r.Hold.Sub(noon)
	}
	for strikes := 1; strikes <= 40; strikes++ {
		want := 15 * time.Minute
		if strikes <= 10 {
			want = time.Second << (strikes - 1)
		}
		least, most := of(strikes, 0), of(strikes, 0.999)
		if least < want*79/100 || least > want || most < min(want, 15*time.Minute) || most > min(want*121/100, 15*time.Minute) {
			t.Errorf("strike %d: between %v and %v, want around %v", strikes, least, most, want)
		}
		if strikes < 10 && most-least < want/3 {
			t.Errorf("strike %d: nothing spreads them: %v and %v", strikes, least, most)
		}
	}
}

// TestATrialIsItsOwners: nobody else ends it or gives it back.
func TestATrialIsItsOwners(t *testing.T) {
	shapes := NewShapes(Limits{{N: 60, Per: time.Minute}})
	r := New(1)
	r.Throttled(noon, "", time.Second, 0, 0)
	order := func(who string) Order { return Order{Class: Light, Want: 5, Owner: who, TrialTime: time.Minute} }
	now := noon.Add(2 * time.Second)
	r, blocks, _ := r.Claim(shapes, now, order("a"))
	if len(blocks) != 1 || blocks[0].N != 1 {
		t.Fatalf("%+v", blocks)
	}
	r.Release("b")
	r.Settled("b")
	if _, blocks, _ := r.Claim(shapes, now, order("b")); len(blocks) > 0 || r.Strikes != 1 {
		t.Errorf("another's trial: %+v, %d strikes", blocks, r.Strikes)
	}
	trying := order("a")
	trying.Trying = true
	if _, blocks, _ := r.Claim(shapes, now, trying); len(blocks) > 0 {
		t.Errorf("a second trial: %+v", blocks)
	}
	r.Release("a")
	if _, blocks, _ := r.Claim(shapes, now, order("b")); len(blocks) != 1 {
		t.Errorf("the next trial: %+v", blocks)
	}
	r.Lift()
	if _, blocks, _ := r.Claim(shapes, now, order("b")); len(blocks) == 0 || r.Strikes != 0 || r.Hold != 0 {
		t.Errorf("after it was lifted: %+v", blocks)
	}
}

// TestNothingStartsDuringAHold, however far ahead a claim may be.
func TestNothingStartsDuringAHold(t *testing.T) {
	shapes := NewShapes(Limits{{N: 60, Per: time.Minute}})
	r := New(1)
	r.Hold = noon.Add(1500 * time.Millisecond)
	_, blocks, _ := r.Claim(shapes, noon, Order{Class: Light, Want: 5})
	for _, b := range blocks {
		if b.From < r.Hold {
			t.Errorf("from %v before the end", r.Hold.Sub(b.From))
		}
	}
	if len(blocks) == 0 {
		t.Error("nothing is claimed ahead")
	}
}

// TestRefundsAreOfThisRegister: those of another change nothing, and none takes
// back more than is there.
func TestRefundsAreOfThisRegister(t *testing.T) {
	shapes := NewShapes(Limits{{N: 10, Per: 24 * time.Hour}})
	r, blocks, _ := New(7).Claim(shapes, noon, Order{Class: Light, Want: 4})
	if len(blocks) != 1 || r.Left(shapes, noon) != 6 {
		t.Fatalf("%+v, %d left", blocks, r.Left(shapes, noon))
	}
	r.GiveBack([]Refund{{At: blocks[0].From, N: 4, Epoch: 8}}, shapes)
	if left := r.Left(shapes, noon); left != 6 {
		t.Errorf("%d left after another register's refund", left)
	}
	tat := r.windows[0].tat
	r.GiveBack([]Refund{{At: blocks[0].From, N: 9, Epoch: 7}}, shapes)
	if left := r.Left(shapes, noon); left != 10 {
		t.Errorf("%d left after all of it came back", left)
	}
	if back := tat.Sub(r.windows[0].tat); back != 4*shapes[0].Gap {
		t.Errorf("the pacer went back by %v", back)
	}
}

// TestALimitOfNothingIsNoRegister: it would divide by zero, and one whose permits
// start later than its whole length would let nobody through.
func TestALimitOfNothingIsNoRegister(t *testing.T) {
	for _, w := range []window{{per: time.Minute, n: 0}, {per: time.Minute, n: -1}, {per: time.Millisecond, n: 1}, {per: time.Second, n: 1, grace: 2 * time.Second, graceAt: noon}} {
		r := New(1)
		r.windows = []window{w}
		if _, err := Decode(r.Encode()); !errors.Is(err, errRegister) {
			t.Errorf("%+v: %v", w, err)
		}
	}
	r := New(1)
	r.windows = []window{{per: time.Minute, n: 3, counts: []int{1, 2, 3}}}
	whole := r.Encode()
	for cut := range whole {
		if _, err := Decode(whole[:cut]); err == nil {
			t.Errorf("%d of %d bytes are a register", cut, len(whole))
		}
	}
	// What says that it is longer than it is takes no memory for it.
	if allocs := testing.AllocsPerRun(10, func() { _, _ = Decode([]byte("\x01\x02\x00\x00\xfe\xff\xff\xff\xff\x01")) }); allocs > 50 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestAClockThatIsSetBackALittleClaimsAtOnce: the server's, by less than two
// seconds.
func TestAClockThatIsSetBackALittleClaimsAtOnce(t *testing.T) {
	shapes := NewShapes(Limits{{N: 20, Per: 10 * time.Second}})
	now := noon
	r := New(1)
	for range 300 {
		r, _, _ = r.Claim(shapes, now, Order{Class: Light, Want: 1})
		now = now.Add(time.Second)
	}
	_, blocks, next := r.Claim(shapes, now.Add(-3500*time.Millisecond), Order{Class: Light, Want: 1})
	if len(blocks) == 0 {
		t.Errorf("nothing for %v", next.Sub(now))
	}
}

// TestACopyIsOne: what is claimed in it, the other does not see.
func TestACopyIsOne(t *testing.T) {
	shapes := NewShapes(Limits{{N: 10, Per: time.Minute}})
	r, _, _ := New(1).Claim(shapes, noon, Order{Class: Light, Want: 2})
	before := r.Encode()
	for range 3 {
		_, _, _ = r.Claim(shapes, noon, Order{Class: Light, Want: 2})
		r.Clone().GiveBack([]Refund{{At: noon, N: 1, Epoch: 1}}, shapes)
	}
	if string(r.Encode()) != string(before) {
		t.Error("a claim in a copy changed it")
	}
}
