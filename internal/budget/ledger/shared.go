package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A quota is one register that several providers share: their calls count in
// the same windows, and groups of operations carry the name of the provider
// whose they are.

// Member is a provider whose permits a register counts.
type Member struct {
	Provider string
	Epoch    int64 // of the register that it had before, which is in this one now
}

// Has reports whether a provider's permits are counted here. Who claims in a
// quota's register must see that first: it is how the others end it.
func (r *Register) Has(provider string) bool {
	return slices.ContainsFunc(r.members, func(m Member) bool { return m.Provider == provider })
}

// Members are the providers that share the register, by name; none: it is one
// provider's own.
func (r *Register) Members() []string {
	names := make([]string, len(r.members))
	for i, m := range r.members {
		names[i] = m.Provider
	}
	return names
}

// Absorb makes a provider a member, with all that its own register remembers.
// It reports whether anything changed: what is here already is not added again.
func (r *Register) Absorb(own *Register, provider string, now Instant) bool {
	if slices.Contains(r.members, Member{provider, own.Epoch}) {
		return false
	}
	r.Expel(provider)
	r.members = append(r.members, Member{provider, own.Epoch})
	slices.SortFunc(r.members, func(a, b Member) int { return strings.Compare(a.Provider, b.Provider) })
	if own.Hold > r.Hold {
		r.Hold, r.Strikes = own.Hold, max(r.Strikes, own.Strikes)
	}
	r.lost = max(r.lost, own.lost)
	for i := range r.busy {
		r.busy[i] = max(r.busy[i], own.busy[i])
	}
	theirs := slices.Clone(own.windows)
	for i := range theirs {
		if theirs[i].group != "" {
			theirs[i].group = Scoped(provider, theirs[i].group)
		}
	}
	r.extend(theirs, now)
	for i := range r.windows {
		w := &r.windows[i]
		if w.group != "" && scope(w.group) != provider {
			continue
		}
		at := slices.IndexFunc(theirs, func(k window) bool { return k.per == w.per && k.group == w.group })
		if at >= 0 {
			w.merge(&theirs[at])
			continue
		}
		s := newShape(Window{N: w.n, Per: w.per}).stretched(w.grace)
		s.Group = w.group
		seeded := own.seed(theirs, s, now)
		w.merge(&seeded)
	}
	if own.atOnce > 0 {
		r.atOnce, r.atOnceSeen = own.atOnce, max(r.atOnceSeen, own.atOnceSeen)
	}
	for _, s := range own.seats {
		s.owner = Scoped(provider, s.owner)
		r.seats = append(r.seats, s)
	}
	r.sort()
	return true
}

// extend gives the register the windows that it does not have yet, with what
// its others remember.
func (r *Register) extend(windows []window, now Instant) {
	known := slices.Clone(r.windows)
	for _, k := range windows {
		if slices.ContainsFunc(known, func(w window) bool { return w.per == k.per && w.group == k.group }) {
			continue
		}
		s := newShape(Window{N: k.n, Per: k.per}).stretched(k.grace)
		s.Group = k.group
		w := r.seed(known, s, now)
		w.seen = k.seen
		r.windows = append(r.windows, w)
	}
}

// merge adds the permits of another account of the same window.
func (w *window) merge(k *window) {
	for i, n := range k.counts {
		if n == 0 {
			continue
		}
		tick := k.base + int64(i)
		if tick < w.base { // it was pruned later than this one: room for it
			w.counts = append(make([]int, w.base-tick), w.counts...)
			w.base = tick
		}
		w.add(tick, n)
	}
	w.tat, w.seen = max(w.tat, k.tat), max(w.seen, k.seen)
	if k.grace > w.grace {
		w.grace, w.graceAt = k.grace, max(w.graceAt, k.graceAt)
	}
}

// Keep takes over what a register that is lost has said of who shares it.
func (r *Register) Keep(before *Register) {
	r.members, r.atOnce, r.atOnceSeen = before.members, before.atOnce, min(before.atOnceSeen, r.lost-r.lost%Instant(time.Second))
}

// Expel ends that a provider's permits are counted here, and reports whether
// they were. What was counted of it stays.
func (r *Register) Expel(provider string) bool {
	n := len(r.members)
	r.members = slices.DeleteFunc(slices.Clone(r.members), func(m Member) bool { return m.Provider == provider })
	return len(r.members) < n
}

// Part is the register that a provider takes along when it leaves a quota: it
// counts all that the quota did, since nobody knows whose calls they were.
func (r *Register) Part(provider string, epoch int64) *Register {
	c := r.Clone()
	c.Epoch, c.members = epoch, nil
	c.windows = slices.DeleteFunc(c.windows, func(w window) bool { return w.group != "" && scope(w.group) != provider })
	for i := range c.windows {
		c.windows[i].group = Unscoped(c.windows[i].group)
	}
	return c
}

// Scoped is the name that a provider's group of operations has in a quota's
// register.
func Scoped(provider, group string) string { return provider + "/" + group }

// Unscoped is the group's name without its provider's.
func Unscoped(group string) string {
	if _, name, found := strings.Cut(group, "/"); found {
		return name
	}
	return group
}

// scope is the provider whose a group is; empty: there is but one.
func scope(group string) string {
	provider, _, found := strings.Cut(group, "/")
	if !found {
		return ""
	}
	return provider
}

// elsewhere reports whether two groups are of different providers, whose calls
// have nothing to do with each other.
func elsewhere(a, b string) bool {
	x, y := scope(a), scope(b)
	return x != "" && y != "" && x != y
}

// MovedError says that a provider's permits are counted in a quota's register.
// A worker of before takes it for a register of a newer version, and leaves the
// provider to others.
type MovedError struct{ Quota string }

func (e *MovedError) Error() string { return "its permits are counted in the quota " + e.Quota }

// Unwrap makes it one of those that must not be replaced.
func (e *MovedError) Unwrap() error { return ErrNewer }

// EncodeMoved is what stands in place of a provider's register while a quota's
// counts its permits, with the register that it had.
func EncodeMoved(quota string, own []byte) []byte {
	b := append([]byte{codecMoved}, binary.AppendVarint(nil, int64(len(quota)))...)
	return append(append(b, quota...), own...)
}

// DecodeMoved reads what EncodeMoved wrote; ok is false for anything else.
func DecodeMoved(b []byte) (quota string, own []byte, ok bool) {
	if len(b) == 0 || b[0] != codecMoved {
		return "", nil, false
	}
	d := decoder{b: b[1:]}
	quota = d.string()
	return quota, d.b, !d.failed && quota != ""
}

// moved is the error of reading one as a register.
func moved(b []byte) error {
	if quota, _, ok := DecodeMoved(b); ok {
		return &MovedError{quota}
	}
	return fmt.Errorf("%w: cut short or garbled", errRegister)
}
