package turns

import "fetchworker/internal/budget/ledger"

// Forget makes the planner read the register again before it claims. What it
// knew it keeps, in case that somebody has set the register back.
func (p *Planner) Forget() {
	if p.kept == nil {
		p.kept, p.keptRev = p.reg, p.rev
	}
	p.reg, p.rev = nil, 0
}

// remember sees to it that a register which was set back has in it again what
// this worker knew.
func (p *Planner) remember(now ledger.Instant) {
	kept := p.kept
	if p.kept = nil; kept == nil || !p.reg.Akin(kept) || !kept.Possible(now) || !p.reg.Clone().Merge(kept, now) {
		return
	}
	p.ops = append(p.ops, func(r *ledger.Register, now ledger.Instant) {
		if r.Akin(kept) {
			r.Merge(kept, now)
		}
	})
}

// Known is the register that was seen last and its revision; nil while it
// must be read before the next claim.
func (p *Planner) Known() (*ledger.Register, uint64) { return p.reg, p.rev }

// Lost takes note that the register is gone, or cannot be read: one that
// counts as full takes its place, at revision rev.
func (p *Planner) Lost(rev uint64, now ledger.Instant) {
	p.Void()
	lost := ledger.Lost(p.rng.Int64(), p.shapes, p.dearer, now)
	if p.reg != nil {
		lost.Keep(p.reg)
	}
	p.reg, p.rev, p.kept = nil, 0, nil
	p.refunds, p.calls = p.refunds[:0], p.calls[:0] // of what is gone
	p.Learn(lost, rev)
	p.Post(now, func(*ledger.Register, ledger.Instant) {})
}
