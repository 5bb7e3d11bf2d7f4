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
	if p.kept = nil; kept == nil || kept.Epoch != p.reg.Epoch || !kept.Possible(now) || !p.reg.Clone().Merge(kept, now) {
		return
	}
	p.ops = append(p.ops, func(r *ledger.Register, now ledger.Instant) {
		if r.Epoch == kept.Epoch {
			r.Merge(kept, now)
		}
	})
}
