package circuit

import "time"

// Covers reports whether a circuit of a call's operation, or its provider's,
// is open for the call.
func (c Circuit) Covers(call Call) bool {
	switch {
	case !c.Held():
		return false
	case c.Call != "":
		return c.Call == call.Key
	default:
		return c.Agent == "" || c.Agent == call.Agent
	}
}

// Look is what the circuits mean for a call.
type Look struct {
	Held  bool   // it must not be made now
	Probe bool   // it may be made as the probe of a circuit that is open for it
	By    string // held, probe: the operation whose circuit it is; empty: the provider's

	// Alone are circuits that are open for others than this call. It may be
	// made, but one such call at a time: should it fail, it widens the circuit.
	Alone []string
}

// Part is what a call is to the circuits that are not closed: the probe of
// one, or the one call at a time that may widen or close others.
type Part struct {
	Probe bool
	Of    string   // probe: the circuit, by its operation
	Alone []string // the circuits that are open for others
}

// Look looks at the provider's circuit and at that of the call's operation.
func (r Record) Look(c Call, now time.Time) Look {
	var look Look
	provider, operation := r.Circuit, r.Of(c.Operation)
	switch {
	case provider.Covers(c) && provider.MayProbe(c, now):
		// It decides about its operation as well.
		return Look{Probe: true}
	case provider.Covers(c):
		return Look{Held: true}
	case provider.Held():
		look.Alone = append(look.Alone, "")
	}
	switch {
	case operation.Covers(c) && operation.MayProbe(c, now):
		look.Probe, look.By = true, c.Operation
	case operation.Covers(c):
		return Look{Held: true, By: c.Operation}
	case operation.Held():
		look.Alone = append(look.Alone, c.Operation)
	}
	return look
}

// Covers reports whether a circuit is open for a call, and which: that of the
// operation named, or of the provider, which has no name.
func (r Record) Covers(c Call) (operation string, held bool) {
	if r.Circuit.Covers(c) {
		return "", true
	}
	return c.Operation, r.Of(c.Operation).Covers(c)
}

// KeyRefused reports whether the calls that failed since the last success were
// mostly refused for their key.
func (r Record) KeyRefused() bool {
	refused, others := 0, 0
	for _, o := range r.Operations {
		for _, e := range o.Row {
			if e.Kind == kindUnauthorized {
				refused++
			} else {
				others++
			}
		}
	}
	return refused > others
}
