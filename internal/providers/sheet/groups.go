package sheet

import (
	"cmp"
	"maps"
	"slices"

	"fetchworker/internal/budget/ledger"
)

// mostGroups bounds what a provider's register holds.
const mostGroups = 32

// LimitGroup is the group whose limits an operation's calls count in besides
// the provider's; empty: none. One with limits of its own is a group by itself.
func (op *Operation) LimitGroup() string {
	if len(op.Limits) > 0 {
		return op.Name
	}
	return op.Group
}

// Units is how many calls one of the operation's counts as.
func (op *Operation) Units() int { return int(max(op.Cost, 1)) }

// GroupLimits are the limits of all groups of operations, by their names.
func (s *Spec) GroupLimits() map[string]ledger.Limits {
	groups := maps.Clone(s.Groups)
	if groups == nil {
		groups = map[string]ledger.Limits{}
	}
	for name, op := range s.Operations {
		if len(op.Limits) > 0 {
			groups[name] = op.Limits
		}
	}
	return groups
}

// mostAtOnce bounds the calls of a fleet at once: beyond, nobody counts them.
const mostAtOnce = 10_000

func (s *Spec) checkGroups(c check) {
	if s.Quota != "" && !NamePattern.MatchString(s.Quota) {
		c.at("quota").wrong("%q: expected %s", s.Quota, ExpectedName)
	}
	c.only("quota", s.Quota != "" && len(s.Limits) == 0 && s.AtOnce == 0, "limits or concurrency, which the providers of a quota share")
	if s.AtOnce < 0 || s.AtOnce > mostAtOnce {
		c.at("concurrency").wrong("%d: expected 1 to 10,000 calls of the whole fleet at once", s.AtOnce)
	}
	for name, limits := range s.Groups {
		at := c.at("groups").at(name)
		switch op := s.Operations[name]; {
		case !NamePattern.MatchString(name):
			at.wrong("%q: expected %s", name, ExpectedName)
		case op != nil && len(op.Limits) > 0:
			at.wrong("an operation of that name has limits: expected another name")
		case len(limits) == 0:
			at.wrong("expected windows of calls such as 10/min")
		case !slices.ContainsFunc(slices.Collect(maps.Values(s.Operations)), func(op *Operation) bool { return op.Group == name }):
			at.wrong("expected an operation with group: %s", name)
		}
	}
	if n := len(s.GroupLimits()); n > mostGroups {
		c.at("groups").wrong("%d groups and operations with limits of their own: expected at most %d", n, mostGroups)
	}
	for name, op := range s.Operations {
		op.checkGroup(c.at("operations").at(name), s)
	}
}

func (op *Operation) checkGroup(c check, of *Spec) {
	if _, ok := of.Groups[op.Group]; op.Group != "" && !ok {
		c.at("group").wrong("%q: expected one of groups: %s", op.Group, Join(slices.Sorted(maps.Keys(of.Groups))))
	}
	c.only("limits", op.Group != "" && len(op.Limits) > 0, "an operation without group, whose limits are those of its calls")
	if op.Cost < 0 || op.Cost > 1_000_000 {
		c.at("cost").wrong("%d: expected 1 to 1,000,000 calls", op.Cost)
		return
	}
	for _, limits := range []ledger.Limits{of.Limits, of.Tiers[of.Tier].Limits, op.Limits, of.Groups[op.Group]} {
		for _, w := range limits {
			if w.N < op.Units() && w.N > 0 {
				c.at("cost").wrong("%d: expected no more than the %s of its limits, or it could never be called", op.Cost, ledger.Limits{w})
			}
		}
	}
}

// Together are the windows that a provider of a quota counts in, as all of that
// quota must have them.
func (s *Spec) Together() string {
	shapes := ledger.NewShapes(slices.Concat(s.Limits, s.Tiers[s.Tier].Limits))
	slices.SortFunc(shapes, func(a, b ledger.Shape) int { return cmp.Compare(a.Per, b.Per) })
	limits := make(ledger.Limits, len(shapes))
	for i, shape := range shapes {
		limits[i] = shape.Window
	}
	return limits.String()
}
