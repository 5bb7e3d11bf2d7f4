package ledger

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// start is where the tests' time begins, in the middle of a tick.
const start = Instant(1_800_000_000_123_456_789)

// patient is how long the claimers of these tests wait.
const patient = 90 * time.Second

func TestShape(t *testing.T) {
	for _, c := range []struct {
		Window
		tick, grace time.Duration
		k           int64
		ceiling     float64 // the share of N that can be used
	}{
		{Window{120, time.Minute}, 234375 * time.Microsecond, 200 * time.Millisecond, 259, 0.988},
		{Window{2, time.Second}, 20 * time.Millisecond, 20 * time.Millisecond, 55, 0.909},
		{Window{100, 24 * time.Hour}, 337500 * time.Millisecond, 200 * time.Millisecond, 258, 0.992},
	} {
		s := newShape(c.Window)
		if s.Tick != c.tick || s.grace != c.grace || s.k != c.k {
			t.Errorf("%v: tick %v, grace %v, k %d", c.Window, s.Tick, s.grace, s.k)
		}
		if got := float64(s.Per) / float64(s.span); got < c.ceiling-0.001 || got > c.ceiling+0.001 {
			t.Errorf("%v: ceiling %.4f", c.Window, got)
		}
	}
}

func TestStricterOfTwo(t *testing.T) {
	if s := NewShapes(Limits{{100, time.Minute}, {60, time.Minute}, {2, time.Second}}); len(s) != 2 || s[0].N != 60 {
		t.Errorf("%+v", s)
	}
}

// taken is a permit as its holder sees it.
type taken struct {
	Block
	fresh bool // claimed under the new limits
}

// TestNeverOver: no sequence of claims, returns, holds, hints and changes of
// limits lets more than N calls arrive in any window, wherever in its
// validity each call starts and however long it takes within what is allowed.
func TestNeverOver(t *testing.T) {
	all := []Limits{
		{{5, time.Minute}},
		{{120, time.Minute}},
		{{2, time.Second}},
		{{60, time.Minute}, {2, time.Second}},
		{{60, time.Minute}, {100, 24 * time.Hour}, {50, 12 * time.Hour}},
		{{7, 10 * time.Second}, {9, time.Minute}},
	}
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SampledFrom(all).Draw(t, "limits")
		groups := rapid.SampledFrom([][]Shape{
			nil, GroupShapes(Limits{{3, 10 * time.Second}}, "a"),
			slices.Concat(GroupShapes(Limits{{5, time.Second}, {6, time.Minute}}, "a"), GroupShapes(Limits{{4, 30 * time.Second}}, "b")),
		}).Draw(t, "groups")
		shapes := slices.Concat(NewShapes(limits), groups)
		most := 1 << 30
		for _, s := range shapes {
			most = min(most, s.N)
		}
		now := start
		r := New(1)
		var out []taken
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2, 3, 4:
				o := Order{
					Class: Class(rapid.IntRange(0, int(Classes)-1).Draw(t, "class")),
					Want:  rapid.IntRange(1, 40).Draw(t, "want"), Owner: "w", TrialTime: time.Second,
					Took: time.Duration(rapid.IntRange(0, 100).Draw(t, "took")) * time.Millisecond, Patience: patient,
					Unsure: time.Duration(rapid.SampledFrom([]int{0, 0, 1, 20, 60}).Draw(t, "unsure")) * time.Millisecond,
				}
				if len(groups) > 0 {
					o.Group = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "group")
					o.Cost = rapid.IntRange(1, min(most, 4)).Draw(t, "cost")
					o.Dearer = Dearer(shapes, o.Group, o.Cost)
				}
				o.Shards = make([]int, o.Want)
				next, blocks, at := r.Claim(shapes, now, o)
				if len(blocks) == 0 && at <= now {
					t.Fatalf("denied, but the next slot is now")
				}
				for _, b := range blocks {
					if b.From < r.Hold || b.Until <= now || b.N < 1 {
						t.Fatalf("claimed %+v at %d, hold %d", b, now, r.Hold)
					}
					if b.From > now.Add(o.Class.horizon()+o.Took/2+o.Dearer) {
						t.Fatalf("claimed %v ahead", b.From.Sub(now))
					}
					for range b.N {
						out = append(out, taken{Block: b})
					}
				}
				r = next
			case 5: // somebody gives a few back
				n := min(rapid.IntRange(1, 5).Draw(t, "back"), len(out))
				next := r.Clone()
				for range n {
					i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
					next.GiveBack([]Refund{{At: out[i].From, N: max(out[i].Cost, 1), Epoch: out[i].Epoch, Group: out[i].Group}}, shapes)
					out = slices.Delete(out, i, i+1)
				}
				r = next
			case 6:
				next := r.Clone()
				next.Throttled(now, "w", time.Duration(rapid.IntRange(0, 5).Draw(t, "after"))*time.Second, 0, 0.5)
				r = next
			case 7:
				next := r.Clone()
				next.Settled("w")
				r = next
			case 8:
				next := r.Clone()
				next.Foreign(shapes, Told{At: now, Left: rapid.IntRange(0, 3).Draw(t, "left")}, now)
				r = next
			case 9: // its bytes are all that another worker has
				d, err := Decode(r.Encode())
				if err != nil {
					t.Fatal(err)
				}
				r = d
			}
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(limits[0].Per/8)).Draw(t, "time")))
		}
		for _, s := range shapes {
			var counted []taken // in this window, once for each unit
			for _, p := range out {
				for range p.Cost {
					if s.Group == "" || s.Group == p.Group {
						counted = append(counted, p)
					}
				}
			}
			checkTicks(t, s, counted)
			arrivals := make([]Instant, len(counted))
			late := min(250*time.Millisecond, s.Per/20)
			for i, p := range counted {
				arrivals[i] = p.From.Add(time.Duration(rapid.Int64Range(0, int64(p.Until.Sub(p.From)+late)).Draw(t, "arrives")))
			}
			slices.Sort(arrivals)
			for i, first := 0, 0; i < len(arrivals); i++ {
				for arrivals[i].Sub(arrivals[first]) >= s.Per {
					first++
				}
				if i-first+1 > s.N {
					t.Fatalf("%d calls arrive within %v, of %d", i-first+1, s.Per, s.N)
				}
			}
		}
	})
}

// checkTicks is the invariant that the promise rests on.
func checkTicks(t *rapid.T, s Shape, out []taken) {
	ticks := make([]int64, len(out))
	for i, p := range out {
		ticks[i] = s.at(p.From)
		if p.Until > s.end(ticks[i]).Add(s.stretched(s.needs(60*time.Millisecond)).grace) {
			t.Fatalf("a permit outlives its tick of %v", s.Per)
		}
	}
	slices.Sort(ticks)
	for i, first := 0, 0; i < len(ticks); i++ {
		for ticks[i]-ticks[first] >= s.k {
			first++
		}
		if i-first+1 > s.N {
			t.Fatalf("%d permits in %d ticks of %v, of %d", i-first+1, s.k, s.Tick, s.N)
		}
	}
}

// TestNewLimit: a limit that comes into force while permits are out counts
// them, and those of the past that the ledger remembers: no call under the new
// limit is one too many.
func TestNewLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := NewShapes(Limits{{30, time.Minute}})
		fresh := NewShapes(rapid.SampledFrom([]Limits{
			{{3, time.Second}}, {{10, 10 * time.Second}}, {{20, 30 * time.Second}, {2, time.Second}}, {{12, time.Minute}},
		}).Draw(t, "new"))
		now, r := start, New(1)
		var out []taken
		claim := func(shapes []Shape, isFresh bool) {
			next, blocks, _ := r.Claim(shapes, now, Order{Patience: patient, Class: Light, Want: rapid.IntRange(1, 5).Draw(t, "want")})
			for _, b := range blocks {
				for range b.N {
					out = append(out, taken{Block: b, fresh: isFresh})
				}
			}
			r = next
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "time")))
		}
		for range rapid.IntRange(1, 20).Draw(t, "before") {
			claim(old, false)
		}
		for range 30 {
			claim(fresh, true)
		}
		for _, s := range fresh {
			type arrival struct {
				at    Instant
				fresh bool
			}
			var arrivals []arrival
			for _, p := range out {
				late := min(250*time.Millisecond, s.Per/20)
				at := p.From.Add(time.Duration(rapid.Int64Range(0, int64(p.Until.Sub(p.From)+late)).Draw(t, "arrives")))
				arrivals = append(arrivals, arrival{at, p.fresh})
			}
			slices.SortFunc(arrivals, func(a, b arrival) int { return int(a.at - b.at) })
			for i, first := 0, 0; i < len(arrivals); i++ {
				for arrivals[i].at.Sub(arrivals[first].at) >= s.Per {
					first++
				}
				within := arrivals[first : i+1]
				if len(within) > s.N && slices.ContainsFunc(within, func(a arrival) bool { return a.fresh }) {
					t.Fatalf("%d calls arrive within %v, of %d", len(within), s.Per, s.N)
				}
			}
		}
	})
}

func TestLostRegisterIsFull(t *testing.T) {
	shapes := NewShapes(Limits{{5, time.Minute}})
	r := Lost(1, shapes, 0, start)
	for _, c := range []Class{Light, Heavy, Replay, Batch} {
		if d := r.Next(shapes, Order{Class: c, Patience: patient}, start).Sub(start); d < time.Minute || d > time.Minute+5*time.Second {
			t.Errorf("class %d: the next permit in %v", c, d)
		}
	}
}

func TestClockSetBack(t *testing.T) {
	shapes := NewShapes(Limits{{5, time.Minute}})
	r := New(1)
	now := start
	for range 5 {
		r, _, _ = r.Claim(shapes, now, Order{Patience: patient, Class: Light, Want: 1})
	}
	r, _, _ = r.Claim(shapes, now.Add(10*time.Minute), Order{Patience: patient, Class: Light, Want: 1}) // prunes
	_, blocks, _ := r.Claim(shapes, now.Add(5*time.Second), Order{Patience: patient, Class: Light, Want: 5})
	if len(blocks) > 0 {
		t.Errorf("claimed %+v where the past is forgotten", blocks)
	}
}

func TestRegisterRoundTrip(t *testing.T) {
	shapes := NewShapes(Limits{{60, time.Minute}, {100, 24 * time.Hour}})
	r := New(1)
	now := start
	for i := range 50 {
		r, _, _ = r.Claim(shapes, now, Order{Patience: patient, Class: Class(i % 4), Want: 1 + i%3, Shards: []int{i % Shards, 3, 7}, Owner: "worker-1", TrialTime: time.Second})
		if i == 30 {
			r.Throttled(now, "", 0, 0, 0.5)
		}
		now = now.Add(3 * time.Second)
		d, err := Decode(r.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(r, d) {
			t.Fatalf("step %d:\n%+v\n%+v", i, r, d)
		}
	}
	if n := len(r.Encode()); n > 2*300+100 {
		t.Errorf("%d bytes for two windows", n)
	}
}

func FuzzDecodeRegister(f *testing.F) {
	f.Add([]byte{codecFirst})
	f.Add([]byte{codecNewest})
	f.Add(Lost(1, NewShapes(Limits{{5, time.Minute}}), 0, start).Encode())
	r, _, _ := New(1).Claim(NewShapes(Limits{{5, time.Minute}}), start, Order{Patience: patient, Class: Batch, Want: 2})
	f.Add(r.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		if _, err := Decode(r.Encode()); err != nil {
			t.Error(err)
		}
	})
}
