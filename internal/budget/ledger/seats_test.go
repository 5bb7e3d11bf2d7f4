package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// sitter is a claimer that has a call under way in each of its seats, as long as
// it wants so many.
type sitter struct {
	owner string
	want  int
}

// alike is how many seats each would have if they were dealt out one by one,
// always to one that has fewest of those who want more.
func alike(most int, wants []int) []int {
	got := make([]int, len(wants))
	for range most {
		least := -1
		for i := range wants {
			if got[i] < wants[i] && (least < 0 || got[i] < got[least]) {
				least = i
			}
		}
		if least >= 0 {
			got[least]++
		}
	}
	slices.Sort(got)
	return got
}

// TestSeatsAreSharedAlike: never are more calls under way than there are seats,
// and none of them is empty while somebody would have it; after each claimer has
// ended a few calls each has as many as the others, as far as it wants them.
func TestSeatsAreSharedAlike(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		most := 1 + rng.IntN(9)
		sitters := make([]sitter, 1+rng.IntN(5))
		wants, sum := make([]int, len(sitters)), 0
		for i := range sitters {
			wants[i] = rng.IntN(most + 2)
			sitters[i] = sitter{owner: string(rune('a' + i)), want: wants[i]}
			sum += min(wants[i], most)
		}
		name := fmt.Sprintf("%d seats, %v want", most, wants)
		now, r := start, New(1)
		has := func(s *sitter) int { n, _ := r.Seats(s.owner); return n }
		sit := func(s *sitter, use int, ended bool) {
			now = now.Add(time.Duration(1+rng.IntN(50)) * time.Millisecond)
			n, want := has(s), r.Wanted(s.owner)
			changed := r.Sit(SeatOrder{Owner: s.owner, Most: most, Use: use, Want: s.want, Ended: ended, Term: time.Hour}, now)
			if changed != (n != has(s) || want != r.Wanted(s.owner)) {
				t.Fatalf("%s: %s had %d of %d, has %d of %d: changed %v", name, s.owner, n, want, has(s), r.Wanted(s.owner), changed)
			}
			if r.Wanted(s.owner) != min(s.want, most) {
				t.Fatalf("%s: %s wants %d", name, s.owner, r.Wanted(s.owner))
			}
		}
		for range 4 * most {
			for i := range sitters {
				s := &sitters[i]
				switch n := has(s); {
				case n == 0 || rng.IntN(4) == 0:
					sit(s, n, false)
				case !r.Fair(s.owner, most, now):
					sit(s, n-1, true)
				}
				taken := 0
				for i := range sitters {
					taken += has(&sitters[i])
				}
				if taken > most || r.Taken(now) != taken {
					t.Fatalf("%s: %d taken, and the register says %d", name, taken, r.Taken(now))
				}
			}
		}
		var got []int
		for i := range sitters { // what the last has given up is another's
			if n := has(&sitters[i]); n < sitters[i].want {
				sit(&sitters[i], n, false)
			}
		}
		for i := range sitters {
			got = append(got, has(&sitters[i]))
		}
		slices.Sort(got)
		if want := alike(most, wants); !slices.Equal(got, want) {
			t.Fatalf("%s: %v have, want %v", name, got, want)
		}
	}
}

// TestASeatThatIsLeftOverGoesRound: where not all can have as many, each has one
// more in its turn.
func TestASeatThatIsLeftOverGoesRound(t *testing.T) {
	for _, c := range []struct{ most, of int }{{1, 3}, {3, 2}, {4, 3}, {5, 4}, {7, 5}} {
		r, now := New(1), start
		sitters := make([]sitter, c.of)
		for i := range sitters {
			sitters[i] = sitter{owner: string(rune('a' + i)), want: max(c.most-i, c.most/c.of+1)}
		}
		order := func(s *sitter, use int, ended bool) SeatOrder {
			return SeatOrder{Owner: s.owner, Most: c.most, Use: use, Want: s.want, Ended: ended, Term: time.Hour}
		}
		more := make([]int, c.of) // rounds in which it had one more
		for round := range 80 {
			now = now.Add(time.Second)
			for i := range sitters { // one call of each that has any ends
				s := &sitters[i]
				now = now.Add(10 * time.Millisecond)
				if n, _ := r.Seats(s.owner); n > 0 && !r.Fair(s.owner, c.most, now) {
					r.Sit(order(s, n-1, true), now)
				}
			}
			for i := range sitters { // and whoever may have more hears of it
				s := &sitters[i]
				n, _ := r.Seats(s.owner)
				if may, _ := r.MaySit(order(s, n, false), now); may > n || r.Wanted(s.owner) == 0 {
					r.Sit(order(s, n, false), now)
				}
				if n, _ := r.Seats(s.owner); n > c.most/c.of && round >= 20 { // as soon as the first has given some of all up
					more[i]++
				}
			}
		}
		slices.Sort(more)
		// Who gives up first of two in a round is again before the other.
		if least, most := more[0], more[len(more)-1]; least < 12 || 2*most > 3*least {
			t.Errorf("%d seats of %d: one more in %v of 60 rounds", c.most, c.of, more)
		}
	}
}

// TestALookForSeats says what asking would give, and when more can be had if
// nobody says anything before; and changes nothing.
func TestALookForSeats(t *testing.T) {
	const unsure = 5 * time.Millisecond
	rng := rand.New(rand.NewPCG(3, 4))
	waited := 0
	for range 300 {
		r, now := New(1), start
		if rng.IntN(4) == 0 {
			r = Lost(1, nil, 0, now)
		}
		most := 1 + rng.IntN(4)
		for i := range 3 {
			now = now.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
			n := rng.IntN(4)
			r.Sit(SeatOrder{Owner: string(rune('a' + i)), Most: most, Use: min(n, most-r.Taken(now)), Want: n, Term: time.Duration(5+rng.IntN(10)) * time.Second}, now)
		}
		o := SeatOrder{Owner: "z", Most: most, Want: 1 + rng.IntN(3), Term: 10 * time.Second, Unsure: unsure}
		if rng.IntN(2) == 0 {
			o.Owner = "a"
			o.Use, _ = r.Seats("a")
			o.Want = max(o.Want, o.Use)
		}
		before := r.Encode()
		may, again := r.MaySit(o, now)
		if !bytes.Equal(r.Encode(), before) {
			t.Fatal("a look changes something")
		}
		sat := r.Clone()
		sat.Sit(o, now)
		if n, _ := sat.Seats(o.Owner); n != may {
			t.Fatalf("%d could be had, and %d are", may, n)
		}
		if may >= o.Want {
			if again != 0 {
				t.Fatal("another look for somebody who has what it wants")
			}
			continue
		}
		if may >= min(o.Want, most) && r.lost == 0 {
			continue // it wants more than there are
		}
		// Nothing can be had before another's time is over, or the loss is: the
		// first of those moments is when to look again.
		waited++
		if again <= now {
			t.Fatalf("%d of %d, and no look again: %+v", may, o.Want, r.seats)
		}
		soon, _ := r.MaySit(o, again-Instant(time.Millisecond)-1)
		if soon > may {
			t.Fatalf("%d already before the next look, and %d now", soon, may)
		}
		rest := r.Clone() // all who are there then
		rest.seats = slices.DeleteFunc(rest.seats, func(s seat) bool { return s.owner != o.Owner && s.until < again.Add(-unsure) })
		if over := r.lost > 0 && again >= r.lost.Add(o.Term); len(rest.seats) == len(r.seats) && !over {
			t.Fatalf("nothing ends at the next look: %v, %+v", again.Sub(now), r.seats)
		}
	}
	if waited < 50 {
		t.Errorf("only %d waited: the test looks at nothing", waited)
	}
}

// TestHowLongTheNumberOfCallsAtOnceIsBelieved: those who have none obey what
// another has said, for an hour; and whoever has one says so again in time.
func TestHowLongTheNumberOfCallsAtOnceIsBelieved(t *testing.T) {
	now := start - start%Instant(time.Second)
	r := New(1)
	if n := r.AtOnce(0, now); n != 0 || r.AtOnceStale(0, now) || !r.AtOnceStale(3, now) {
		t.Errorf("nobody has said anything: %d at once", n)
	}
	r.Sit(SeatOrder{Owner: "a", Most: 3, Want: 2, Term: time.Minute}, now)
	for after, c := range map[time.Duration]struct {
		others int
		stale  bool
	}{
		0: {3, false}, 30 * time.Minute: {3, false}, 30*time.Minute + 1: {3, true}, time.Hour: {3, true}, time.Hour + 1: {0, true},
	} {
		at := now.Add(after)
		if n := r.AtOnce(0, at); n != c.others {
			t.Errorf("%v after it was said: %d at once, want %d", after, n, c.others)
		}
		if r.AtOnce(5, at) != 5 || !r.AtOnceStale(5, at) || r.AtOnceStale(3, at) != c.stale || r.AtOnceStale(0, at) {
			t.Errorf("%v after it was said: its own number is not what whoever has one goes by", after)
		}
	}
	// One who has no number does not say so, and has seats by what others said.
	next := r.Clone()
	next.Sit(SeatOrder{Owner: "b", Want: 2, Term: time.Minute}, now.Add(40*time.Minute))
	if n, _ := next.Seats("b"); n != 2 || next.AtOnce(0, now.Add(time.Hour)) != 3 || next.AtOnce(0, now.Add(time.Hour+1)) != 0 {
		t.Errorf("%d seats, and the number is said again by one who has none", n)
	}
	// Once nobody counts any more there are no seats, nor does anybody want one.
	if !next.Sit(SeatOrder{Owner: "b", Use: 1, Want: 2, Term: time.Minute}, now.Add(2*time.Hour)) || next.Wanted("b") != 0 || len(next.seats) > 0 {
		t.Errorf("seats where nobody counts: %+v", next.seats)
	}
	if r.Clone().Sit(SeatOrder{Owner: "c", Most: 3, Term: time.Minute}, now) {
		t.Error("one that has none and wants none is no news")
	}
	if !r.Fair("nobody", 3, now) {
		t.Error("who has no seat has more than its share")
	}
}

// TestSeatsAfterALoss: whose calls are under way when a register is lost nobody
// knows, so none begins before the last of them must have ended; those that are
// known go on.
func TestSeatsAfterALoss(t *testing.T) {
	const term = 40 * time.Second
	r := Lost(1, nil, 0, start)
	for _, c := range []struct {
		after     time.Duration // since the last claim that may have been
		use, want int
		seats     int
	}{
		{-time.Second, 0, 2, 0}, {0, 0, 2, 0}, {0, 1, 2, 1}, {0, 3, 3, 3}, {term - 1, 0, 2, 0}, {term - 1, 1, 0, 1}, {term, 0, 2, 2}, {term, 1, 2, 2}, {term + time.Hour, 1, 0, 1},
	} {
		next := r.Clone()
		o := SeatOrder{Owner: "a", Most: 2, Use: c.use, Want: c.want, Term: term}
		at := r.lost.Add(c.after)
		may, _ := next.MaySit(o, at)
		next.Sit(o, at)
		if n, until := next.Seats("a"); n != c.seats || may != n || n > 0 && (until < at.Add(term) || until > at.Add(term+2*time.Millisecond)) {
			t.Errorf("%v after a loss, %d under way and %d wanted: %d could be had, %d are until %v; want %d", c.after, c.use, c.want, may, n, until.Sub(at), c.seats)
		}
		if n := next.Taken(at.Add(term)); n != c.seats {
			t.Errorf("%d of %d are taken until their time is over", n, c.seats)
		}
		if n := next.Taken(at.Add(term + 2*time.Millisecond)); n != 0 {
			t.Errorf("%d are taken when their time is over", n)
		}
	}
}

// TestWhoCameFirstIsNext: the next seat is that of whoever has waited longest, be
// it that it came or gave one up.
func TestWhoCameFirstIsNext(t *testing.T) {
	r := New(1)
	order := func(owner string, use int, ended bool) SeatOrder {
		return SeatOrder{Owner: owner, Most: 1, Use: use, Want: 1, Ended: ended, Term: time.Hour}
	}
	line := []string{"a", "d", "b", "c"}
	for i, owner := range line {
		r.Sit(order(owner, 0, false), start.Add(time.Duration(i)*time.Second))
	}
	for i := range 12 {
		at := start.Add(time.Duration(10+i) * time.Second)
		has, next := line[i%4], line[(i+1)%4]
		if n, _ := r.Seats(has); n != 1 || r.Fair(has, 1, at) {
			t.Fatalf("round %d: %s has %d seats, and may keep it: %v", i, has, n, r.Fair(has, 1, at))
		}
		r.Sit(order(has, 0, true), at)
		for _, owner := range []string{"a", "b", "c", "d"} {
			if may, _ := r.MaySit(order(owner, 0, false), at); (may == 1) != (owner == next) {
				t.Fatalf("round %d: %d for %s, and %s is next", i, may, owner, next)
			}
		}
		r.Sit(order(next, 0, false), at)
	}
}
