package ledger

import (
	"errors"
	"slices"
	"testing"
	"time"
)

var perMinuteAndDay = Limits{{60, time.Minute}, {100, 24 * time.Hour}}

// TestLostForEverybody: a lost register counts as full for every limit, also
// for those that whoever saw the loss does not have.
func TestLostForEverybody(t *testing.T) {
	for name, seenBy := range map[string]Limits{
		"nobody's limits": nil, "one of two": {{60, time.Minute}}, "a smaller one": {{5, time.Minute}}, "both": perMinuteAndDay,
	} {
		r := Lost(1, NewShapes(seenBy), 0, start)
		for _, l := range []Limits{perMinuteAndDay, {{100, 24 * time.Hour}}, {{60, time.Minute}}, {{2, time.Second}}} {
			shapes := NewShapes(l)
			d, err := Decode(r.Encode())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []*Register{r, d} {
				longest := shapes[len(shapes)-1]
				at := r.Next(shapes, Order{Class: Light, Patience: patient}, start)
				if d := at.Sub(start); d < longest.Per || d > longest.span+2*time.Second+2*longest.Tick {
					t.Errorf("%s: the next permit under %v in %v", name, l, d)
				}
				if left := r.Left(shapes, start.Add(longest.Per/2)); left != 0 {
					t.Errorf("%s: %d left of %v", name, left, l)
				}
				later := start.Add(longest.span + 2*time.Second + 2*longest.Tick)
				if _, blocks, _ := r.Claim(shapes, later, Order{Class: Light, Want: 1, Patience: patient}); len(blocks) != 1 {
					t.Errorf("%s: nothing under %v after its whole length", name, l)
				}
			}
		}
	}
}

// TestCallsWithoutALimit: who has no limit counts for those who have.
func TestCallsWithoutALimit(t *testing.T) {
	shapes := NewShapes(Limits{{100, 24 * time.Hour}})
	r, now := New(1), start
	for range 10 {
		r, _, _ = r.Claim(shapes, now, Order{Class: Light, Want: 1, Patience: patient})
		now = now.Add(time.Second)
	}
	for range 500 {
		if !r.Counts(nil, "") {
			t.Fatal("nobody counts")
		}
		r.Record(nil, "", now, 1, now)
		now = now.Add(time.Second)
	}
	if left := r.Left(shapes, now); left != 0 {
		t.Errorf("%d left of 100 after 510 calls", left)
	}
	if d := r.Next(shapes, Order{Class: Light, Patience: patient}, now).Sub(now); d < 23*time.Hour {
		t.Errorf("the next permit in %v", d)
	}
}

// TestAnIdleLimitIsKept: calls without a limit count for one whose holder has
// been idle for longer than its window.
func TestAnIdleLimitIsKept(t *testing.T) {
	shapes := NewShapes(Limits{{100, 24 * time.Hour}})
	r := New(1)
	if !r.Stale(shapes, start) {
		t.Error("a limit that is not in the register is not missed")
	}
	r.Touch(shapes, start)
	if r.Stale(shapes, start.Add(time.Hour)) {
		t.Error("touched, and stale after an hour")
	}
	now := start.Add(72 * time.Hour)
	r.Record(nil, "", now, 7, now)
	if !r.Stale(shapes, now) {
		t.Error("nobody has to say that it still has the limit")
	}
	r.Touch(shapes, now.Add(time.Second))
	r.Record(nil, "", now.Add(2*time.Second), 1, now.Add(2*time.Second))
	if left := r.Left(shapes, now.Add(time.Minute)); left != 92 {
		t.Errorf("%d left of 100 after 8 calls", left)
	}
	// If nobody says so, it is forgotten in the end.
	now = now.Add(72 * time.Hour)
	r.Record(nil, "", now, 1, now)
	r.Record(nil, "", now.Add(time.Second), 1, now.Add(time.Second))
	if r.Counts(nil, "") {
		t.Error("a limit that nobody has is kept for ever")
	}
}

func TestNewerCodec(t *testing.T) {
	newer := New(1).Encode()
	newer[0] = codecNewest + 1
	if _, err := Decode(newer); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer version: %v", err)
	}
	for _, garbage := range [][]byte{nil, {}, {0}, []byte("{}"), []byte("hello"), {255, 1, 2}} {
		if _, err := Decode(garbage); err == nil || errors.Is(err, ErrNewer) {
			t.Errorf("%q: %v", garbage, err)
		}
	}
	// What needs nothing newer is written as before.
	if b := New(1).Encode(); b[0] != codecFirst {
		t.Errorf("an ordinary register has version %d", b[0])
	}
}

// TestForeignCallsFallOut: what the provider counts beyond us counts for as
// long as it does there.
func TestForeignCallsFallOut(t *testing.T) {
	shapes := NewShapes(perMinuteAndDay)
	r, _, _ := New(1).Claim(shapes, start, Order{Class: Light, Want: 10, Patience: patient})
	if n := r.Foreign(shapes, Told{At: start, Left: 0, Reset: time.Hour}, start); n != 90 {
		t.Fatalf("%d booked, want 90", n)
	}
	if left := r.Left(shapes, start.Add(time.Minute)); left != 0 {
		t.Errorf("%d left", left)
	}
	for _, c := range []Class{Light, Heavy, Replay} {
		d := r.Next(shapes, Order{Class: c, Patience: patient}, start.Add(time.Minute)).Sub(start)
		if d < time.Hour || d > time.Hour+6*time.Minute {
			t.Errorf("class %d: the next permit in %v, want in an hour", c, d)
		}
	}
	if f := r.ForeignCalls(start.Add(time.Minute)); f.N != 90 || f.Until.Sub(start) > time.Hour || f.Until.Sub(start) < time.Hour-time.Second {
		t.Errorf("%+v", f)
	}
	if n := r.Foreign(shapes, Told{At: start.Add(time.Second), Left: 0, Reset: time.Hour}, start.Add(time.Second)); n != 0 {
		t.Errorf("%d booked twice", n)
	}
	after := start.Add(time.Hour + 6*time.Minute)
	if left := r.Left(shapes, after); left != 60 {
		t.Errorf("%d left after the reset, want the minute's 60", left)
	}
	if f := r.ForeignCalls(after); f.N != 0 {
		t.Errorf("%+v after the reset", f)
	}
}

// TestForeignCallsOfAWindow: a count is of the window that the provider names.
func TestForeignCallsOfAWindow(t *testing.T) {
	shapes := NewShapes(perMinuteAndDay)
	r, _, _ := New(1).Claim(shapes, start, Order{Class: Light, Want: 10, Patience: patient})
	if n := r.Foreign(shapes, Told{At: start, Per: time.Hour}, start); n != 0 {
		t.Errorf("%d booked of a window that nobody keeps", n)
	}
	if n := r.Foreign(shapes, Told{At: start, Left: 40, Per: 24 * time.Hour, Reset: 10 * time.Second}, start); n != 50 {
		t.Errorf("%d booked, want 50 of the day", n)
	}
}

// TestImpossible: claims that a clock which was ahead has left are no register.
func TestImpossible(t *testing.T) {
	shapes := NewShapes(perMinuteAndDay)
	for _, ahead := range []time.Duration{5 * time.Minute, time.Hour, 24 * time.Hour, 365 * 24 * time.Hour} {
		r, _, _ := New(1).Claim(shapes, start, Order{Class: Light, Want: 1, Patience: patient})
		if !r.Possible(start) {
			t.Fatal("an ordinary register is impossible")
		}
		r, _, _ = r.Claim(shapes, start.Add(ahead), Order{Class: Heavy, Want: 1, Patience: patient})
		if r.Possible(start) {
			t.Errorf("claimed %v ahead, and possible", ahead)
		}
		if l := Lost(1, shapes, 0, start.Add(ahead)); l.Possible(start) {
			t.Errorf("lost %v ahead, and possible", ahead)
		}
	}
	r, _, _ := New(1).Claim(shapes, start, Order{Class: Light, Want: 1, Patience: patient})
	r.Throttled(start, "", 24*time.Hour, 0, 0)
	if !r.Possible(start) || !r.Possible(start.Add(48*time.Hour)) || !Lost(1, shapes, 0, start).Possible(start) {
		t.Error("a hold, an old register or a lost one is impossible")
	}
}

// TestANewLimitIsPossible: whatever limits follow on each other, the register is
// one that a fleet wrote, and what was called counts in the new ones. It was
// taken for lost where ticks of a long window had their ends minutes ahead, and
// so nobody could call for as long as the new limit.
func TestANewLimitIsPossible(t *testing.T) {
	pers := []time.Duration{time.Second, time.Minute, time.Hour, 2 * time.Hour, 12 * time.Hour, 24 * time.Hour, 31 * 24 * time.Hour, longest}
	for _, first := range pers {
		for _, second := range pers {
			for _, third := range pers {
				now, r := start, New(1)
				for i, per := range []time.Duration{first, second, third} {
					shapes := NewShapes(Limits{{3, per}})
					if i == 0 {
						r, _, _ = r.Claim(shapes, now, Order{Class: Light, Want: 2, Patience: patient})
					}
					now = now.Add(time.Millisecond)
					if next := r.Next(shapes, Order{Class: Light, Patience: patient}, now); r.Left(shapes, next) < 1 || next.Sub(now) > longest/64 {
						t.Fatalf("3/%v, then 3/%v, then 3/%v: %d left of 3 after 2, the next after %v", first, second, third, r.Left(shapes, next), next.Sub(now))
					} else if next > now && r.Left(shapes, now) > 0 {
						t.Fatalf("3/%v, then 3/%v, then 3/%v: %d left now, and the next after %v", first, second, third, r.Left(shapes, now), next.Sub(now))
					}
					r.Touch(shapes, now)
					for _, later := range []time.Duration{0, time.Millisecond, time.Minute, per} {
						if !r.Possible(now.Add(later)) {
							t.Fatalf("3/%v, then 3/%v, then 3/%v: impossible %v later", first, second, third, later)
						}
					}
				}
			}
		}
	}
}

// TestSettledTwice: the end of a throttle that is booked again, because nobody
// knew whether it was stored, does not end the next one.
func TestSettledTwice(t *testing.T) {
	shapes := NewShapes(Limits{{60, time.Minute}})
	r := New(1)
	r.Throttled(start, "", time.Second, 0, 0)
	now := start.Add(2 * time.Second)
	r, blocks, _ := r.Claim(shapes, now, Order{Class: Light, Want: 5, Owner: "a", TrialTime: time.Minute, Patience: patient})
	if len(blocks) != 1 || blocks[0].N != 1 {
		t.Fatalf("%+v for a trial", blocks)
	}
	r.Settled("a")
	r.Throttled(now, "", 10*time.Second, 0, 0) // another's 429
	r.Settled("a")
	if r.Strikes != 1 {
		t.Error("an old success wiped another's strike")
	}
}

func TestBoundsOfLimits(t *testing.T) {
	for _, text := range []string{
		"2000000000000/min", "1000000001/s", "99999999999999999999/min", "1/8785h", "1/min,1/s,1/h,1/d,2/2s,2/3s,2/4s,2/5s,2/6s",
		"0/s", "-1/s", "1/1ms", "1/-1s", "x/s", "1", "1/", "/s", "", "1/min,", "1e3/min",
	} {
		if l, err := ParseLimits(text); err == nil {
			t.Errorf("%q: %v", text, l)
		}
	}
	l, err := ParseLimits("1000000000/8784h,1000000000/s")
	if err != nil {
		t.Fatal(err)
	}
	shapes := NewShapes(l)
	r, _, _ := New(1).Claim(shapes, start, Order{Class: Light, Want: 1 << 30, Patience: patient})
	r.Record(nil, "", start, 1<<30, start)
	if _, err := Decode(r.Encode()); err != nil {
		t.Errorf("the largest limit makes a register that nobody can read: %v", err)
	}
}

// TestFarAway: a claimer that knows the time badly gets permits that are of use
// to it, and everybody counts them for as long as they may arrive.
func TestFarAway(t *testing.T) {
	shapes := NewShapes(Limits{{2, time.Second}})
	far := Order{Class: Light, Want: 2, Patience: patient, Unsure: 50 * time.Millisecond}
	r, blocks, _ := New(1).Claim(shapes, start, far)
	if usable := blocks[0].Until.Sub(blocks[0].From) - 2*far.Unsure; usable < use {
		t.Errorf("usable for %v", usable)
	}
	near := Order{Class: Light, Patience: patient}
	d := r.Next(shapes, near, start).Sub(start)
	if most := shapes[0].stretched(shapes[0].needs(far.Unsure)).span; d < most-shapes[0].Tick || d > most+shapes[0].Tick {
		t.Errorf("the next permit in %v, want %v", d, most)
	}
	// Some time after it has gone, the window is as long as before.
	now := start.Add(time.Minute)
	r, _, _ = r.Claim(shapes, now, Order{Class: Light, Want: 2, Patience: patient})
	if d := r.Next(shapes, near, now).Sub(now); d > shapes[0].span {
		t.Errorf("the next permit in %v, want %v", d, shapes[0].span)
	}
	if r.Encode()[0] != codecFirst {
		t.Error("still written in the newer way")
	}
	for unsure, want := range map[time.Duration]bool{0: true, 100 * time.Millisecond: true, 240 * time.Millisecond: true, 400 * time.Millisecond: false} {
		if got := newShape(Window{2, time.Second}).Reachable(unsure); got != want {
			t.Errorf("unsure by %v: reachable %v", unsure, got)
		}
	}
}

// TestMerge: a register that was set back to a copy of before has in it again
// what somebody remembers.
func TestMerge(t *testing.T) {
	shapes := NewShapes(perMinuteAndDay)
	order := Order{Class: Light, Want: 5, Patience: patient}
	r, _, _ := New(1).Claim(shapes, start, order)
	backup, now := r, start
	for range 4 {
		now = now.Add(5 * time.Second)
		r, _, _ = r.Claim(shapes, now, order)
	}
	r.Throttled(now, "", time.Minute, 0, 0)
	back, err := Decode(backup.Encode())
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if !back.Merge(r, now) {
		t.Error("nothing to remember")
	}
	if left := back.Left(shapes, now); left != 60-25 || back.Hold != r.Hold || back.Strikes != 1 {
		t.Errorf("%d left, hold %v", left, back.Hold)
	}
	if back.Merge(r, now) || r.Merge(back, now) || r.Merge(backup, now) {
		t.Error("there is always something to remember")
	}
	empty := New(1)
	if !empty.Merge(r, now) || empty.Left(shapes, now) != 60-25 {
		t.Errorf("%d left in an empty one", empty.Left(shapes, now))
	}
	if _, err := Decode(back.Encode()); err != nil {
		t.Error(err)
	}
}

// Limits are written as people read them, and read back as they were.
func TestLimitsAreWrittenForPeople(t *testing.T) {
	for text, want := range map[string]string{
		"50/12h": "50/12h", "7/90m": "7/1h30m", "3/70s": "3/1m10s", "5/1h0m5s": "5/1h0m5s", "2/h,100/24h": "2/h,100/d", "1/30s": "1/30s", "9/10m": "9/10m", "4/168h": "4/168h",
	} {
		l, err := ParseLimits(text)
		if err != nil || l.String() != want {
			t.Errorf("%s: %s %v", text, l, err)
		}
		if again, err := ParseLimits(want); err != nil || again.String() != want {
			t.Errorf("%s: %s %v", want, again, err)
		}
	}
}

// TestANewLimitWaitsForTheOld: what a limit that is new lets go begins when no
// permit of before can still be on its way: nobody knows when in its time that
// one started.
func TestANewLimitWaitsForTheOld(t *testing.T) {
	for _, before := range []Limits{{{60, time.Minute}}, {{300, time.Minute}}, {{100, 24 * time.Hour}}} {
		for _, added := range []Window{{5, time.Second}, {50, time.Second}, {100, time.Hour}} {
			r, blocks, _ := New(1).Claim(NewShapes(before), start, Order{Class: Light, Want: 30, Patience: patient})
			last := start
			for _, b := range blocks {
				last = max(last, b.Until)
			}
			shapes := NewShapes(append(Limits{added}, before...))
			tick := newShape(added).Tick
			if next := r.Next(shapes, Order{Class: Light, Patience: patient}, start); next.Add(tick) < last {
				t.Errorf("%v beside %v: the first permit after %v, and one of before may start %v later", added, before, next.Sub(start), last.Sub(next))
			}
		}
	}
}

// TestASeatIsKeptUntilItsEndIsSure: a seat is another's only when its time is
// over by every clock that may be right.
func TestASeatIsKeptUntilItsEndIsSure(t *testing.T) {
	const unsure = 50 * time.Millisecond
	r := New(1)
	r.Sit(SeatOrder{Owner: "a", Most: 1, Want: 1, Term: time.Minute}, start)
	_, until := r.Seats("a")
	for off, want := range map[time.Duration]int{-time.Second: 0, -time.Millisecond: 0, time.Millisecond: 0, unsure - time.Millisecond: 0, unsure + 2*time.Millisecond: 1} {
		next := r.Clone()
		o := SeatOrder{Owner: "b", Most: 1, Want: 1, Term: time.Minute, Unsure: unsure}
		if n, _ := next.MaySit(o, until.Add(off)); n != want {
			t.Errorf("%v after its end: %d could be had", off, n)
		}
		next.Sit(o, until.Add(off))
		if n, _ := next.Seats("b"); n != want {
			t.Errorf("%v after its end: %d are had", off, n)
		}
	}
}

// TestALimitIsStaleBeforeItIsForgotten: whoever has a limit and is idle hears of
// that in time to say so again, whoever else writes meanwhile.
func TestALimitIsStaleBeforeItIsForgotten(t *testing.T) {
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour} {
		shapes, others := NewShapes(Limits{{10, per}}), NewShapes(Limits{{7, 7 * time.Second}})
		r := New(1)
		r.Touch(shapes, start)
		step := (shapes[0].span + kept) / 16
		at := start
		for ; !r.Stale(shapes, at); at = at.Add(step) {
			next := r.Clone()
			next.Touch(others, at.Add(10*time.Second))
			if !slices.ContainsFunc(next.windows, func(w window) bool { return w.per == per }) {
				t.Fatalf("%v: forgotten within 10 s of %v, when it is not even stale", per, at.Sub(start))
			}
		}
		if at.Sub(start) > shapes[0].span+kept {
			t.Errorf("%v: stale after %v", per, at.Sub(start))
		}
	}
}

// TestWhatIsUnderWayKeepsItsSeat: however small a claimer's share has become, it
// says what it has under way, and nobody else has that.
func TestWhatIsUnderWayKeepsItsSeat(t *testing.T) {
	for _, most := range []int{4, 2, 1} { // the number of calls at once may be lowered
		r := New(1)
		r.Sit(SeatOrder{Owner: "a", Most: 4, Want: 4, Term: time.Minute}, start)
		for _, owner := range []string{"b", "c"} {
			r.Sit(SeatOrder{Owner: owner, Most: most, Want: 4, Term: time.Minute}, start.Add(time.Second))
		}
		for use := 4; use >= 0; use-- {
			r.Sit(SeatOrder{Owner: "a", Most: most, Use: use, Want: 4, Ended: use < 4, Term: time.Minute}, start.Add(time.Duration(6-use)*time.Second))
			if n, _ := r.Seats("a"); n < use {
				t.Errorf("of %d at once: %d under way, and %d seats", most, use, n)
			}
			r.Sit(SeatOrder{Owner: "b", Most: most, Want: 4, Term: time.Minute}, start.Add(time.Duration(6-use)*time.Second))
			if n := r.Taken(start.Add(10 * time.Second)); n > max(most, use) {
				t.Errorf("%d of %d at once are taken, %d of them under way", n, most, use)
			}
		}
	}
}
