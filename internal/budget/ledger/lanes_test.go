package ledger

import (
	"testing"
	"time"
)

// granted is how many permits of one moment somebody gets who asks for more
// than there are, one by one.
func granted(r *Register, shapes []Shape, class Class, now Instant) (*Register, int) {
	for n := 0; ; n++ {
		next, blocks, _ := r.Claim(shapes, now, Order{Patience: patient, Class: class, Want: 1, Shards: []int{3}})
		if len(blocks) == 0 || blocks[0].From > now {
			return r, n
		}
		r = next
	}
}

// However much a backlog asks for, something is left for those above it, and a
// light request goes at once.
func TestABacklogLeavesSomething(t *testing.T) {
	shapes := NewShapes(Limits{{120, time.Minute}})
	for _, class := range []Class{Heavy, Replay, Batch} {
		r, n := granted(New(1), shapes, class, start)
		if left := r.Left(shapes, start); left < class.reserve(120) || left > 119 {
			t.Errorf("%v: %d of 120 are left after a backlog took %d", class, left, n)
		}
		// A second later the pacer has let go of as many as a second holds.
		if _, more := granted(r, shapes, class, start.Add(time.Second)); more > 4 {
			t.Errorf("%v: %d more a second later, of two a second", class, more)
		}
		if _, blocks, _ := r.Claim(shapes, start, Order{Patience: patient, Class: Light, Want: 1}); len(blocks) != 1 || blocks[0].From > start {
			t.Errorf("%v: a light request waits behind a backlog: %v", class, blocks)
		}
	}
}

// Who asked much lately is heavy, and light again soon after its backlog,
// however long that was.
func TestWhoAskedMuchIsHeavyForAWhile(t *testing.T) {
	shapes := NewShapes(Limits{{120, time.Minute}})
	r, now := New(1), start
	if !r.Modest(shapes, 3, now) {
		t.Error("heavy from the start")
	}
	for range 600 { // ten minutes of one a second
		r, _, _ = r.Claim(shapes, now, Order{Patience: patient, Class: Heavy, Want: 1, Shards: []int{3}})
		now = now.Add(time.Second)
	}
	if r.Modest(shapes, 3, now) || !r.Modest(shapes, 4, now) {
		t.Errorf("the one that asked is light: %v, another: %v", r.Modest(shapes, 3, now), r.Modest(shapes, 4, now))
	}
	if now = now.Add(time.Minute); !r.Modest(shapes, 3, now) {
		t.Error("heavy a minute after its backlog")
	}
}

// Nobody claims what would have ended before the claim is stored.
func TestWhatIsClaimedOutlastsItsWrite(t *testing.T) {
	shapes := NewShapes(Limits{{2, time.Second}})
	took, unsure := 120*time.Millisecond, 15*time.Millisecond
	for ms := range 1000 {
		now := start.Add(time.Duration(ms) * time.Millisecond)
		_, blocks, _ := New(1).Claim(shapes, now, Order{Patience: patient, Class: Light, Want: 3, Took: took, Unsure: unsure})
		for _, b := range blocks {
			if b.Until < now.Add(took+unsure) {
				t.Fatalf("at %d ms: a permit of %v to %v", ms, b.From.Sub(now), b.Until.Sub(now))
			}
		}
	}
}

// What no clock of a fleet that is right can have written is no register.
func TestWhatIsTooFarAheadIsImpossible(t *testing.T) {
	for what, edit := range map[string]func(r *Register){
		"a hold":  func(r *Register) { r.Hold = start.Add(mostHeld + time.Second) },
		"a trial": func(r *Register) { r.trial = trial{"w1", start.Add(mostTried + time.Second)} },
		"a loss":  func(r *Register) { r.lost = start.Add(mostAhead + time.Second) },
	} {
		r := New(1)
		edit(r)
		if r.Possible(start) {
			t.Errorf("%s beyond what can be is believed", what)
		}
		if !r.Possible(start.Add(time.Second)) {
			t.Errorf("%s at the most that can be is not believed", what)
		}
	}
}

// A trial lasts until its tick ends, which in the longest window is after more
// than a day.
func TestATrialOfTheLongestWindow(t *testing.T) {
	shapes := NewShapes(Limits{{1000, longest}})
	for h := range 80 {
		now := start.Add(time.Duration(h) * time.Hour)
		r := New(1)
		r.Touch(shapes, now)
		r.Throttled(now, "", time.Second, 0, 0)
		now = now.Add(2 * time.Second)
		r, blocks, _ := r.Claim(shapes, now, Order{Class: Light, Want: 1, Owner: "w", TrialTime: time.Minute, Patience: patient})
		if len(blocks) != 1 || !r.Possible(now) {
			t.Fatalf("%d hours on: %d permits, and the register cannot be", h, len(blocks))
		}
	}
}

// What only the pacer allowed is so for dear calls, too.
func TestADearCallIsPaced(t *testing.T) {
	shapes := NewShapes(Limits{{120, time.Minute}})
	r, n := New(1), 0
	for range 200 {
		next, blocks, _ := r.Claim(shapes, start, Order{Class: Batch, Want: 1, Cost: 7, Patience: patient})
		if len(blocks) == 0 {
			break
		}
		free := r.Left(shapes, start)
		if paced := free-Batch.reserve(120) < 7; blocks[0].From <= start && blocks[0].Paced != paced {
			t.Errorf("with %d free, of which %d are for others, paced is %v", free, Batch.reserve(120), blocks[0].Paced)
		}
		r, n = next, n+1
	}
	if n < 8 {
		t.Errorf("%d claims", n)
	}
}
