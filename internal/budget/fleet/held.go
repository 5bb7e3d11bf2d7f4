package fleet

import (
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

// register is where a provider's permits are counted; nil: that is not known.
func (v *View) register(p *shared) *ledger.Register {
	if p.quota != "" {
		return v.quotas[p.quota]
	}
	return p.register
}

// Held says why no letter of a provider should be released now, and until
// when: the circuit is open, it is paused, or a hold or a quota lets nothing
// through for more than 90 s. The reason is empty if nothing holds it. A
// circuit whose probe is due is still held: release one letter then.
func (v *View) Held(provider string, now time.Time) (fetchworker.Reason, time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.providers[provider]
	if p == nil {
		return "", time.Time{}
	}
	if until := p.control.PausedUntil(now); !until.IsZero() {
		return fetchworker.ReasonPaused, until
	}
	if p.circuit.ForAll() {
		return fetchworker.ReasonCircuitOpen, p.circuit.Until()
	}
	r := v.register(p)
	if r == nil {
		return "", time.Time{}
	}
	if hold := r.Hold.Time(); hold.Sub(now) > turns.Patience {
		return fetchworker.ReasonThrottled, hold
	}
	if next := r.Next(v.shapes(provider, p, r, now), ledger.Order{Class: ledger.Replay, Patience: turns.Patience}, ledger.InstantOf(now)).Time(); next.Sub(now) > turns.Patience {
		return fetchworker.ReasonQuota, next
	}
	return "", time.Time{}
}

// shapes are the limits in force: an operator's, or those of the configuration
// that all its living workers tell alike, or those that the fleet last claimed
// under. Where nobody has asked since an operator's limits ended, what was
// claimed under last is still them.
func (v *View) shapes(provider string, p *shared, r *ledger.Register, now time.Time) []ledger.Shape {
	own, told := v.configured(provider)
	if !told {
		own = r.Limits()
	}
	limits, _ := p.control.InForce(own, now)
	return ledger.NewShapes(limits)
}

// Configured are the limits that a provider's living workers have of themselves,
// without an operator's, where all tell the same.
func (v *View) Configured(provider string) (limits ledger.Limits, told bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.configured(provider)
}

// configured are the limits of a provider's living workers, where all tell the
// same, in whatever words: two versions may write one limit differently.
func (v *View) configured(provider string) (limits ledger.Limits, told bool) {
	for _, w := range v.workers {
		if !w.serves[provider] || !w.lives() {
			continue
		}
		theirs, err := ledger.ParseLimits(w.Limits[provider]) // an earlier version tells none
		if err != nil || told && !theirs.Same(limits) {
			return nil, false
		}
		limits, told = theirs, true
	}
	return limits, told
}
