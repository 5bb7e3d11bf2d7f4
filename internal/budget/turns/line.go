package turns

import (
	"slices"
	"time"

	"fetchworker/internal/budget/ledger"
)

// Group is a group of operations that have limits of their own.
type Group struct {
	Limits  ledger.Limits // besides the provider's; none: only what its calls cost is of its own
	Dearest int           // what its dearest call counts as
}

// line is those who wait for permits of one kind, since their calls count in
// the same windows and cost the same, with the permits in hand for them. Lines
// don't wait for each other: what one has no permit for, another may have.
type line struct {
	group  string
	cost   int
	shapes []ledger.Shape // of the windows that its calls count in
	dearer time.Duration  // how much further ahead it claims, for what its calls cost

	queue  *queue
	held   []held // permits claimed and not yet handed out, by time
	usable int    // of held, which may start now; -1: none

	share    float64        // which part of the fleet's spread this one waits
	waiting  bool           // denied, until alarm
	opens    ledger.Instant // since when others contend for the same slot
	alarm    ledger.Instant
	alarmFor ledger.Class
	denied   known // what the slot was looked for in

	promised ledger.Instant // when the last who was sent away may come back
}

func (p *Planner) newLine(group string, cost int) *line {
	l := &line{group: group, cost: cost, queue: newQueue(p.rng), share: p.rng.Float64()}
	l.reshape(p.shapes)
	return l
}

// known is what a look for a slot depends on besides the time.
type known struct {
	rev          uint64
	ops, refunds int
}

func (p *Planner) known() known { return known{p.rev, len(p.ops), len(p.refunds)} }

// lineOf is where a request waits.
func (p *Planner) lineOf(w *Waiter) *line { return p.lineFor(p.named(w.Group), w.Cost) }

func (p *Planner) lineFor(group string, cost int) *line {
	cost = max(cost, 1)
	for _, l := range p.lines {
		if l.group == group && l.cost == cost {
			return l
		}
	}
	l := p.newLine(group, cost)
	p.lines = append(p.lines, l)
	return l
}

// reshape tells all lines that the limits have changed.
func (p *Planner) reshape() {
	for _, l := range p.lines {
		l.reshape(p.shapes)
	}
	for group, cost := range p.dearest {
		p.dearer = max(p.dearer, ledger.Dearer(p.shapes, group, cost)) // what was claimed before stands
	}
}

func (l *line) reshape(all []ledger.Shape) {
	l.shapes = slices.DeleteFunc(slices.Clone(all), func(s ledger.Shape) bool { return s.Group != "" && s.Group != l.group })
	l.denied = known{}
	l.dearer = ledger.Dearer(all, l.group, l.cost)
}

// inHand is how many permits are claimed and not yet handed out.
func (l *line) inHand() (n int) {
	for i := range l.held {
		n += l.held[i].N
	}
	return n
}

// GroupPatience is the longest wait for a permit of a group's own limits. It is
// short: who waits holds a place of its shard, which others need.
const GroupPatience = 10 * time.Second

// Away is who need not wait: when they may come back, and why.
type Away struct {
	Until ledger.Instant
	Group string // whose limits are used up; empty: the provider's
}

// Hopeless calls away for everyone who would wait longer than anybody waits,
// and takes out those for whom it is told. While a claim is on its way nobody
// is: the watch may show it as taken before its answer says that it is ours.
func (p *Planner) Hopeless(now ledger.Instant, away func(*Waiter, Away)) {
	if p.writing {
		return
	}
	r := p.Effective(now)
	for _, l := range p.lines {
		// Who needs no permit waits for a place only. To look at each of a few
		// hundred at every begin and end of a call was a twentieth of the CPU.
		if l.queue.total() > 0 && l.inHand() == 0 && !p.unlimited(l, r, now) {
			p.hopeless(l, now, away)
		}
	}
}

func (p *Planner) hopeless(l *line, now ledger.Instant, away func(*Waiter, Away)) {
	var found [ledger.Classes]Away
	var known [ledger.Classes]bool
	l.queue.drop(func(w *Waiter) bool {
		c := p.ClassOf(w, now)
		if !known[c] {
			known[c], found[c] = true, p.away(l, c, now)
		}
		at := found[c]
		if at.Until == 0 {
			return false
		}
		if at.Group != "" {
			l.promised = max(l.promised.Add(l.gap()), at.Until)
			at.Until = l.promised
		}
		away(w, at)
		return true
	})
	p.crowd(l, now, away)
}

// away is when those of a class may come back, and zero if they may wait.
func (p *Planner) away(l *line, c ledger.Class, now ledger.Instant) Away {
	group := ledger.Unscoped(l.group)
	if _, far := p.tooFar(l); far && group != "" {
		if _, all := p.TooFar(); !all {
			return Away{now.Add(farAgain), group} // only its group's windows are too short from here
		}
	}
	at := Away{Until: p.soonest(l, c, now)}
	if at.Until.Sub(now) <= Patience {
		return Away{}
	}
	if free := p.soonest(p.lines[0], c, now); free.Sub(now) <= Patience {
		at.Group = group
	}
	return at
}

// farAgain is when to try again for a permit that this worker is too far away
// for: another may be nearer.
const farAgain = time.Minute

// crowd sends those of a group away who come after as many as its own limits
// let through in time: the last, and those of the slowest lane first. Each is
// told a moment of its own, or all would come back for the same permit.
func (p *Planner) crowd(l *line, now ledger.Instant, away func(*Waiter, Away)) {
	r := p.Prospect(now)
	group := ledger.Unscoped(l.group)
	if group == "" || l.queue.total() == 0 || r == nil || p.Effective(now).Hold > now {
		return
	}
	units, gap, ok := r.Room(p.shapes, l.group, now, GroupPatience)
	if !ok {
		return
	}
	stay := max(units/l.cost, 0)
	first := p.soonest(l, ledger.Heavy, now)
	if first <= now {
		l.promised = 0 // who was promised later is served already
	}
	if l.queue.total() > stay && stay == 0 && first.Sub(now) <= GroupPatience {
		stay = 1
	}
	for excess := l.queue.total() - stay; excess > 0; excess-- {
		w := l.queue.last()
		l.queue.remove(w)
		l.promised = max(l.promised.Add(time.Duration(l.cost)*gap), first, now.Add(GroupPatience))
		away(w, Away{Until: l.promised, Group: group})
	}
}

// gap is the pacer's time for one call of the line's, by its own limits.
func (l *line) gap() (gap time.Duration) {
	for _, s := range l.shapes {
		if s.Group != "" {
			gap = max(gap, s.Gap)
		}
	}
	return gap * time.Duration(l.cost)
}
