package budget

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

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
		if s.tick != c.tick || s.grace != c.grace || s.k != c.k {
			t.Errorf("%v: tick %v, grace %v, k %d", c.Window, s.tick, s.grace, s.k)
		}
		if got := float64(s.Per) / float64(s.span); got < c.ceiling-0.001 || got > c.ceiling+0.001 {
			t.Errorf("%v: ceiling %.4f", c.Window, got)
		}
	}
}

// taken is a permit as its holder sees it.
type taken struct {
	block
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
		shapes := newShapes(limits)
		now := simStart
		r := newRegister()
		var out []taken
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2, 3, 4:
				o := order{
					class: class(rapid.IntRange(0, int(classes)-1).Draw(t, "class")),
					want:  rapid.IntRange(1, 40).Draw(t, "want"), owner: "w", lease: time.Second,
					lead: time.Duration(rapid.IntRange(0, 100).Draw(t, "lead")) * time.Millisecond,
				}
				o.shards = make([]int, o.want)
				next, blocks, at := r.claim(shapes, now, o)
				if len(blocks) == 0 && at <= now {
					t.Fatalf("denied, but the next slot is now")
				}
				for _, b := range blocks {
					if b.from < r.hold || b.until <= now || b.n < 1 {
						t.Fatalf("claimed %+v at %d, hold %d", b, now, r.hold)
					}
					if b.from > now.add(o.class.horizon()) {
						t.Fatalf("claimed %v ahead", b.from.sub(now))
					}
					for range b.n {
						out = append(out, taken{block: b})
					}
				}
				r = next
			case 5: // somebody gives a few back
				n := min(rapid.IntRange(1, 5).Draw(t, "back"), len(out))
				next := r.clone()
				for range n {
					i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
					next.giveBack([]slip{{at: out[i].from, n: 1, epoch: out[i].epoch}}, shapes)
					out = slices.Delete(out, i, i+1)
				}
				r = next
			case 6:
				next := r.clone()
				next.throttled(now, "w", time.Duration(rapid.IntRange(0, 5).Draw(t, "after"))*time.Second, 0, 0.5)
				r = next
			case 7:
				next := r.clone()
				next.settled()
				r = next
			case 8:
				next := r.clone()
				next.phantoms(shapes, hint{at: now, left: rapid.IntRange(0, 3).Draw(t, "left")}, now)
				r = next
			case 9: // its bytes are all that another worker has
				d, err := decodeRegister(r.encode())
				if err != nil {
					t.Fatal(err)
				}
				r = d
			}
			now = now.add(time.Duration(rapid.Int64Range(0, int64(limits[0].Per/8)).Draw(t, "time")))
		}
		for _, s := range shapes {
			checkTicks(t, s, out)
			arrivals := make([]instant, len(out))
			late := min(250*time.Millisecond, s.Per/20)
			for i, p := range out {
				arrivals[i] = p.from.add(time.Duration(rapid.Int64Range(0, int64(p.until.sub(p.from)+late)).Draw(t, "arrives")))
			}
			slices.Sort(arrivals)
			for i, first := 0, 0; i < len(arrivals); i++ {
				for arrivals[i].sub(arrivals[first]) >= s.Per {
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
func checkTicks(t *rapid.T, s shape, out []taken) {
	ticks := make([]int64, len(out))
	for i, p := range out {
		ticks[i] = s.at(p.from)
		if p.until > s.end(ticks[i]).add(s.grace) {
			t.Fatalf("a permit outlives its tick of %v", s.Per)
		}
	}
	slices.Sort(ticks)
	for i, first := 0, 0; i < len(ticks); i++ {
		for ticks[i]-ticks[first] >= s.k {
			first++
		}
		if i-first+1 > s.N {
			t.Fatalf("%d permits in %d ticks of %v, of %d", i-first+1, s.k, s.tick, s.N)
		}
	}
}

// TestNewLimit: a limit that comes into force while permits are out counts
// them, and those of the past that the ledger remembers: no call under the new
// limit is one too many.
func TestNewLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := newShapes(Limits{{30, time.Minute}})
		fresh := newShapes(rapid.SampledFrom([]Limits{
			{{3, time.Second}}, {{10, 10 * time.Second}}, {{20, 30 * time.Second}, {2, time.Second}}, {{12, time.Minute}},
		}).Draw(t, "new"))
		now, r := simStart, newRegister()
		var out []taken
		claim := func(shapes []shape, isFresh bool) {
			next, blocks, _ := r.claim(shapes, now, order{class: light, want: rapid.IntRange(1, 5).Draw(t, "want")})
			for _, b := range blocks {
				for range b.n {
					out = append(out, taken{block: b, fresh: isFresh})
				}
			}
			r = next
			now = now.add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "time")))
		}
		for range rapid.IntRange(1, 20).Draw(t, "before") {
			claim(old, false)
		}
		for range 30 {
			claim(fresh, true)
		}
		for _, s := range fresh {
			type arrival struct {
				at    instant
				fresh bool
			}
			var arrivals []arrival
			for _, p := range out {
				late := min(250*time.Millisecond, s.Per/20)
				at := p.from.add(time.Duration(rapid.Int64Range(0, int64(p.until.sub(p.from)+late)).Draw(t, "arrives")))
				arrivals = append(arrivals, arrival{at, p.fresh})
			}
			slices.SortFunc(arrivals, func(a, b arrival) int { return int(a.at - b.at) })
			for i, first := 0, 0; i < len(arrivals); i++ {
				for arrivals[i].at.sub(arrivals[first].at) >= s.Per {
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
	shapes := newShapes(Limits{{5, time.Minute}})
	r := lostRegister(shapes, simStart)
	for _, c := range []class{light, heavy, replay, batch} {
		if d := r.next(shapes, c, simStart).sub(simStart); d < time.Minute || d > time.Minute+5*time.Second {
			t.Errorf("class %d: the next permit in %v", c, d)
		}
	}
}

func TestClockSetBack(t *testing.T) {
	shapes := newShapes(Limits{{5, time.Minute}})
	r := newRegister()
	now := simStart
	for range 5 {
		r, _, _ = r.claim(shapes, now, order{class: light, want: 1})
	}
	r, _, _ = r.claim(shapes, now.add(10*time.Minute), order{class: light, want: 1}) // prunes
	_, blocks, _ := r.claim(shapes, now.add(5*time.Second), order{class: light, want: 5})
	if len(blocks) > 0 {
		t.Errorf("claimed %+v where the past is forgotten", blocks)
	}
}

func TestRegisterRoundTrip(t *testing.T) {
	shapes := newShapes(Limits{{60, time.Minute}, {100, 24 * time.Hour}})
	r := newRegister()
	now := simStart
	for i := range 50 {
		r, _, _ = r.claim(shapes, now, order{class: class(i % 4), want: 1 + i%3, shards: []int{i % shards, 3, 7}, owner: "worker-1", lease: time.Second})
		if i == 30 {
			r.throttled(now, "", 0, 0, 0.5)
		}
		now = now.add(3 * time.Second)
		d, err := decodeRegister(r.encode())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(r, d) {
			t.Fatalf("step %d:\n%+v\n%+v", i, r, d)
		}
	}
	if n := len(r.encode()); n > 2*300+100 {
		t.Errorf("%d bytes for two windows", n)
	}
}

func FuzzDecodeRegister(f *testing.F) {
	f.Add([]byte{codecVersion})
	r, _, _ := newRegister().claim(newShapes(perMinute(5)), simStart, order{class: batch, want: 2})
	f.Add(r.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRegister(b)
		if err != nil {
			return
		}
		if _, err := decodeRegister(r.encode()); err != nil {
			t.Error(err)
		}
	})
}
