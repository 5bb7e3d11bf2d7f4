package ledger

import (
	"cmp"
	"slices"
	"time"
)

// Calls at once: whoever would call has a seat of the register's, for a time.
// A seat that nobody renews is free when its time is over, and no call begins
// that might last longer than its seat: so one that dies keeps its seats for a
// call's time and no longer, and never are more calls under way than there are
// seats.

// seat is what one claimer has of them, and what it would have.
type seat struct {
	owner string
	n     int     // seats
	want  int     // how many it could use
	since Instant // when it last gave one up that others waited for, or came; whole milliseconds
	until Instant // whole milliseconds
}

// SeatOrder is what a claimer asks for.
type SeatOrder struct {
	Owner  string
	Most   int           // calls of all at once; 0: what the register says
	Use    int           // its calls under way: so many it keeps
	Want   int           // how many it could use, those included
	Ended  bool          // a call of its has ended since it was last here, and others wait
	Term   time.Duration // how long a seat is kept; every claimer has the same, or those with longer calls a longer one
	Unsure time.Duration // how wrong the claimer's time may be
}

// atOnceKept is for how long the number of calls at once is believed after
// somebody who has it as a limit last said so. Those who have none obey it.
const atOnceKept = time.Hour

// AtOnce is how many calls may be under way at once for a claimer that has a
// limit itself or not (0); 0: any number.
func (r *Register) AtOnce(own int, now Instant) int {
	if own > 0 {
		return own
	}
	if now.Sub(r.atOnceSeen) <= atOnceKept {
		return r.atOnce
	}
	return 0
}

// AtOnceStale reports whether somebody's number of calls at once is not in the
// register, or will be forgotten before long.
func (r *Register) AtOnceStale(own int, now Instant) bool {
	return own > 0 && (r.atOnce != own || now.Sub(r.atOnceSeen) > atOnceKept/2)
}

// Seats are those that a claimer has, and until when.
func (r *Register) Seats(owner string) (n int, until Instant) {
	if i := r.seatOf(owner); i >= 0 {
		return r.seats[i].n, r.seats[i].until
	}
	return 0, 0
}

// Wanted is how many seats a claimer has said that it could use.
func (r *Register) Wanted(owner string) int {
	if i := r.seatOf(owner); i >= 0 {
		return r.seats[i].want
	}
	return 0
}

func (r *Register) seatOf(owner string) int {
	return slices.IndexFunc(r.seats, func(s seat) bool { return s.owner == owner })
}

// Taken is how many calls may be under way now, and how many of them a claimer
// has that lives.
func (r *Register) Taken(now Instant) (n int) {
	for _, s := range r.seats {
		if s.until > now {
			n += s.n
		}
	}
	return n
}

// Sit gives a claimer the seats that are its now: those whose calls are under
// way, and of the others as many as are free, and its share where not all can
// have what they want. It reports whether the register says anything else than
// before that others should know. The register is changed.
func (r *Register) Sit(o SeatOrder, now Instant) (changed bool) {
	most := r.AtOnce(o.Most, now)
	if o.Most > 0 {
		r.atOnce, r.atOnceSeen = o.Most, now-now%Instant(time.Second)
	}
	before := seat{}
	if i := r.seatOf(o.Owner); i >= 0 {
		before = r.seats[i]
	}
	r.seats = slices.DeleteFunc(r.seats, func(s seat) bool { return s.owner == o.Owner || s.until < now.Add(-o.Unsure) })
	if most == 0 || o.Want == 0 && o.Use == 0 {
		return before.n+before.want > 0
	}
	next := seat{owner: o.Owner, want: min(max(o.Want, o.Use), most), since: before.since, until: milliseconds(now.Add(o.Term + time.Millisecond))}
	if before.owner == "" || o.Ended {
		next.since = milliseconds(now)
	}
	next.n = o.Use
	if free := most - r.sum(); now >= r.lost.Add(o.Term) {
		next.n = max(o.Use, min(next.want, free, r.share(next, most)))
	}
	r.seats = append(r.seats, next)
	slices.SortFunc(r.seats, func(a, b seat) int { return cmp.Compare(a.owner, b.owner) })
	return next.n != before.n || next.want != before.want
}

func milliseconds(t Instant) Instant { return t - t%Instant(time.Millisecond) }

func (r *Register) sum() (n int) {
	for _, s := range r.seats {
		n += s.n
	}
	return n
}

// share is how many seats are a claimer's if all that want some get as many,
// as far as they want them. What is left over goes to those who have waited
// longest.
func (r *Register) share(of seat, most int) int {
	all := append(slices.DeleteFunc(slices.Clone(r.seats), func(s seat) bool { return s.owner == of.owner }), of)
	slices.SortFunc(all, func(a, b seat) int {
		return cmp.Or(cmp.Compare(a.want, b.want), cmp.Compare(a.since, b.since), cmp.Compare(a.owner, b.owner))
	})
	for i, s := range all {
		each := most / (len(all) - i)
		if s.want > each { // nobody after it wants less: they share alike
			rest := all[i:]
			slices.SortFunc(rest, func(a, b seat) int { return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.owner, b.owner)) })
			over := most - each*len(rest)
			for j, s := range rest {
				if s.owner == of.owner && j < over {
					return each + 1
				}
			}
			return each
		}
		if s.owner == of.owner {
			return s.want
		}
		most -= s.want
	}
	return 0
}

// Fair reports whether a claimer that has n seats may go on with all of them
// when one of its calls ends: the others have what they want, or it has no more
// than its share of them.
func (r *Register) Fair(owner string, most int, now Instant) bool {
	i := r.seatOf(owner)
	if i < 0 {
		return true
	}
	mine := r.seats[i]
	mine.since = now
	return mine.n <= r.share(mine, most)
}

// MaySit is how many seats a claimer would have after Sit, and when to look
// again if it has fewer than it wants: a seat's time is over then, if nobody
// says anything before.
func (r *Register) MaySit(o SeatOrder, now Instant) (n int, again Instant) {
	c := *r
	c.seats = slices.Clone(r.seats)
	c.Sit(o, now)
	n, _ = c.Seats(o.Owner)
	if n >= o.Want {
		return n, 0
	}
	if sure := r.lost.Add(o.Term); now < sure {
		again = sure
	}
	for _, s := range c.seats {
		if at := s.until.Add(o.Unsure + time.Millisecond); s.owner != o.Owner && (again == 0 || at < again) {
			again = at
		}
	}
	return n, again
}
