package budget

import (
	"errors"
	"fmt"

	"fetchworker/internal/budget/ledger"
)

// UnableError is why this worker cannot call a provider that others may well be
// able to call: its requests are for them.
type UnableError struct{ Why string }

func (e *UnableError) Error() string { return "this worker cannot call the provider: " + e.Why }

// unable is what a gate cannot do, and tells of as soon as that changes.
type unable struct {
	newer string // the register was written by a newer version
	far   string // a limit's permits lapse before they can be used

	elsewhere string // its permits are counted where this worker's catalogue does not say
}

func (u unable) err() error {
	switch {
	case u.newer != "":
		return &UnableError{Why: u.newer}
	case u.elsewhere != "":
		return &UnableError{Why: u.elsewhere}
	case u.far != "":
		return &UnableError{Why: u.far}
	}
	return nil
}

// newer notes whether the register can be read at all.
func (g *Gate) newer(err error) {
	next := g.unable
	next.newer = ""
	if errors.Is(err, ledger.ErrNewer) {
		next.newer = err.Error()
	}
	g.cannot(next)
}

// reach notes whether the worker is near enough to the server for its limits.
func (g *Gate) reach() {
	next := g.unable
	next.far = ""
	if w, far := g.planner.TooFar(); far {
		next.far = fmt.Sprintf("too far from the NATS server for %s: its time is known to %v only",
			ledger.Limits{w}, g.planner.Unsure().Round(1e6))
	}
	g.cannot(next)
}

func (g *Gate) cannot(next unable) {
	before := g.unable
	if next == before {
		return
	}
	g.unable, g.barred = next, next.err()
	if before.newer == next.newer && before.elsewhere == next.elsewhere && (before.far == "") == (next.far == "") {
		return
	}
	e := Event{Kind: KindThrottle, Severity: SeverityInfo, Mine: true, Why: "this worker can call the provider again"}
	if err := next.err(); err != nil {
		e.Severity, e.Why = SeverityError, err.Error()
	}
	g.events.tell(e)
}
