package turns

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"fetchworker/internal/budget/ledger"
)

// Patience is the longest wait for a permit: whoever would wait longer is
// sent away with the time to come back.
const Patience = 90 * time.Second

// Planner is one worker's share of the work: who waits, which permits are in
// hand, what the register was when it was last seen, and when to claim next.
// It is a pure state machine: the gate tells it the time and does its writes,
// and so does the simulation.
type Planner struct {
	name      string
	shapes    []ledger.Shape // the provider's, and those of its groups
	groups    []ledger.Shape // those of its groups
	dearest   map[string]int // what the dearest call of a group counts as
	dearer    time.Duration  // the furthest ahead that calls are, or were, claimed
	slots     int            // calls at once
	trialTime time.Duration  // how long a trial, or any call, may take
	scope     string         // the provider, among those that share a quota; empty: it shares none
	rng       *rand.Rand

	rota    *rota
	lines   []*line         // those who wait, by the kind of permit; the first is for calls of no group that cost one
	turn    int             // the line to look at first
	out     int             // calls under way, or about to be
	guests  *guests         // whose they are
	grants  []Grant         // of the last Serve
	trials  int             // permits in hand or out that are trials
	refunds []ledger.Refund // to be given back with the next write
	calls   []call          // made without a limit, to be recorded with the next write
	told    []ledger.Told   // foreign calls to be booked with the next write
	due     due
	seats   seats
	seen    ledger.Instant // the time that Serve was last told

	reg     *ledger.Register // the last one seen; nil while it must be read before the next claim
	rev     uint64
	sane    ledger.Instant                           // reg was possible then, and is so from then on; zero: nobody has looked
	kept    *ledger.Register                         // what was known before it had to be read again; nil: nothing
	keptRev uint64                                   // of kept
	ops     []func(*ledger.Register, ledger.Instant) // changes that are on their way into the register: holds and their ends

	unsure    time.Duration // how wrong the time may be
	writing   bool
	took      time.Duration // how long a write takes
	conflicts int
	writes    int64          // of the register, tried
	failed    int64          // those of them that were not, or perhaps not, stored
	lapsed    int64          // permits that nobody could use in time
	retry     ledger.Instant // after a conflict, not before
}

// held is a block in hand.
type held struct {
	ledger.Block
	trial bool           // the one call after a hold
	ready ledger.Instant // not before: explicit jitter
	pace  *rate.Limiter  // the patient classes' spacing inside the block
}

// NewPlanner is for a worker that calls slots at once, and whose trials take no
// longer than trialTime. It knows no register yet.
func NewPlanner(name string, l ledger.Limits, slots int, trialTime time.Duration, rng *rand.Rand) *Planner {
	p := &Planner{
		name: name, shapes: ledger.NewShapes(l), slots: slots, trialTime: trialTime, rng: rng, rota: newRota(rng),
		seats: seats{cap: -1}, guests: newGuests(),
	}
	p.lines = []*line{p.newLine("", 1)}
	return p
}

// Share says which provider this is for among those that share the register.
// It is called once, before anything else.
func (p *Planner) Share(provider string) {
	p.scope = provider
	p.lines = []*line{p.newLine(p.named(""), 1)}
}

// named is a group's name in the register.
func (p *Planner) named(group string) string {
	if p.scope == "" {
		return group
	}
	return ledger.Scoped(p.scope, group)
}

// Group gives groups of operations limits of their own, besides the provider's,
// and says what the dearest call of each counts as. It is called once, before
// anything else.
func (p *Planner) Group(groups map[string]Group) {
	all := p.shapes
	p.dearest = map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		p.groups = append(p.groups, ledger.GroupShapes(groups[name].Limits, p.named(name))...)
	}
	p.shapes = slices.Concat(all, p.groups)
	for name, g := range groups {
		p.dearest[p.named(name)] = g.Dearest
	}
	p.reshape()
}

// Grant is a turn for one who waited.
type Grant struct {
	*Waiter
	Turn
}

// call is calls that were made without a limit.
type call struct {
	at    ledger.Instant
	n     int
	group string
}

// Effective is the register as it will be when what is on its way has arrived.
func (p *Planner) Effective(now ledger.Instant) *ledger.Register {
	if p.reg == nil || len(p.ops) == 0 {
		return p.reg
	}
	r := p.reg.Clone()
	for _, op := range p.ops {
		op(r, now)
	}
	return r
}

// unlimited reports whether a line's permits need no claim: no limits, no
// throttle, and no hold that a throttle's end has left.
func (p *Planner) unlimited(l *line, r *ledger.Register, now ledger.Instant) bool {
	return len(l.shapes) == 0 && r != nil && r.Strikes == 0 && r.Hold <= now
}

// giveBack keeps permits that were certainly not used for the next claim, and
// lets another have the trial at once.
func (p *Planner) giveBack(b ledger.Block, trial bool) {
	if b.N > 0 && (len(p.lineFor(b.Group, b.Cost).shapes) > 0 || p.reg != nil && p.reg.Counts(p.shapes, b.Group)) {
		p.refund(ledger.Refund{At: b.From, N: b.Units(), Epoch: b.Epoch, Group: b.Group})
	}
	if trial {
		p.trials--
		p.ops = append(p.ops, func(r *ledger.Register, _ ledger.Instant) { r.Release(p.name) })
	}
}

// Push lets a request wait for its turn.
func (p *Planner) Push(w *Waiter) {
	w.guest = p.guests.at(w.Agent, p.seen)
	p.lineOf(w).queue.push(w)
}

// Remove takes out one who leaves, and reports whether it still waited.
func (p *Planner) Remove(w *Waiter) bool { return p.lineOf(w).queue.remove(w) }

// Drop removes everyone for whom gone is true.
func (p *Planner) Drop(gone func(*Waiter) bool) {
	for _, l := range p.lines {
		l.queue.drop(gone)
	}
}

// Queued is how many wait.
func (p *Planner) Queued() (n int) {
	for _, l := range p.lines {
		n += l.queue.total()
	}
	return n
}

// UnderWay is how many calls are under way, or about to be.
func (p *Planner) UnderWay() int { return p.out }

// End ends a turn. The permit of one that made no call is for others.
func (p *Planner) End(t Turn, called bool) {
	if !called {
		p.giveBack(t.Block, t.Trial)
	} else if t.Trial {
		p.trials--
	}
	p.unseat()
	p.leave(t)
}

// Again lets one whose turn lapsed wait for another, before those who came
// later.
func (p *Planner) Again(w *Waiter, t Turn, called bool) {
	p.lapsed++
	if called {
		t.Block.N = 0 // a call may have gone: it counts as used
	}
	p.giveBack(t.Block, t.Trial)
	p.leave(t)
	w.guest = t.guest
	p.lineOf(w).queue.putBack(w)
}

// enter gives a place to one whose turn it is, leave takes it back.
func (p *Planner) enter(g *Grant, now ledger.Instant) {
	p.out++
	g.Turn.guest = g.Waiter.guest
	g.Turn.guest.holds++
	g.Turn.guest.began = now
}

func (p *Planner) leave(t Turn) {
	p.out--
	t.guest.holds--
}

// Void gives every permit in hand back: a hold came, the limits changed, or
// the clock is not to be trusted.
func (p *Planner) Void() {
	for _, l := range p.lines {
		for _, h := range l.held {
			p.giveBack(h.Block, h.trial)
		}
		l.held = l.held[:0]
	}
}

func (p *Planner) modest(shard int, now ledger.Instant) bool {
	return len(p.shapes) == 0 || p.reg == nil || p.reg.Modest(p.shapes, shard, now)
}

// Learn takes a newer register.
func (p *Planner) Learn(r *ledger.Register, rev uint64) {
	if p.reg != nil && rev <= p.rev {
		return
	}
	if p.reg != nil && r.Epoch != p.reg.Epoch {
		p.Void()
		p.refunds, p.calls = p.refunds[:0], p.calls[:0]
	}
	p.due.limits = true
	if p.reg == nil || r.Hold > p.reg.Hold {
		p.obey(r)
	}
	if p.reg == nil && p.kept != nil && r.Akin(p.kept) && (rev < p.keptRev || r.Epoch != p.kept.Epoch) {
		p.seats.back = true
	}
	p.reg, p.rev, p.sane = r, rev, 0
	p.undoubt()
}

// obey drops permits that a hold forbids.
func (p *Planner) obey(r *ledger.Register) {
	for _, l := range p.lines {
		if slices.ContainsFunc(l.held, func(h held) bool { return h.From < r.Hold }) {
			p.Void()
		}
	}
}

// mostOps bounds the changes that wait while the register cannot be written.
// There is one for each call that was under way, and none while nothing starts.
const mostOps = 1024

// Post puts a change on its way into the register. It holds here at once.
func (p *Planner) Post(now ledger.Instant, op func(*ledger.Register, ledger.Instant)) {
	if len(p.ops) < mostOps {
		p.ops = append(p.ops, op)
	}
	if r := p.Effective(now); r != nil {
		p.obey(r)
	}
}

// Told keeps a provider's own count for the next claim, if it is lower than
// ours: somebody else calls with our key.
func (p *Planner) Told(h ledger.Told, now ledger.Instant) {
	if p.reg == nil || len(p.shapes) == 0 {
		return
	}
	if before := p.reg.Clone(); before.Foreign(p.shapes, h, now) > 0 {
		p.told = append(p.told[:0], h) // the latest knows best
	}
}

// Limit changes the limits. Permits claimed under the old ones go back.
func (p *Planner) Limit(l ledger.Limits) {
	shapes := slices.Concat(ledger.NewShapes(l), p.groups)
	if slices.Equal(shapes, p.shapes) {
		return
	}
	p.Void()
	p.shapes = shapes
	p.reshape()
	p.due.limits = true
}
