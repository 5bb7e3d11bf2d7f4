package ledger

import "slices"

// Akin reports whether both are of the same calls: one was set back to what it
// was, or made anew of a provider's own register that the other has taken in.
func (r *Register) Akin(known *Register) bool {
	return r.Epoch == known.Epoch || slices.ContainsFunc(r.members, func(m Member) bool { return slices.Contains(known.members, m) })
}

// Merge adds what an earlier register that is akin knew and this one does
// not, and reports whether there was anything: whoever set the bucket back to
// a copy of before has not set the provider back. What was given back in
// between counts again, which only slows.
func (r *Register) Merge(known *Register, now Instant) (changed bool) {
	more := func(have *Instant, than Instant) {
		if *have < than {
			*have, changed = than, true
		}
	}
	if known.Hold > now && known.Hold > r.Hold {
		r.Hold, r.Strikes, changed = known.Hold, max(r.Strikes, known.Strikes), true
	}
	more(&r.lost, known.lost)
	for _, k := range known.windows {
		i := slices.IndexFunc(r.windows, func(w window) bool { return w.per == k.per && w.group == k.group })
		if i < 0 {
			r.windows = append(r.windows, window{per: k.per, group: k.group, n: k.n, seen: k.seen, base: k.base})
			i = len(r.windows) - 1
		}
		w := &r.windows[i]
		s := newShape(Window{N: w.n, Per: w.per}).stretched(max(w.grace, k.grace))
		for j, n := range k.counts {
			tick := k.base + int64(j)
			if n -= w.sum(tick, tick); n <= 0 || tick <= s.at(now)-s.k {
				continue
			}
			if tick < w.base { // it was pruned later than this one: room for it
				w.counts = append(make([]int, w.base-tick), w.counts...)
				w.base = tick
			}
			w.add(tick, n)
			w.tat = max(w.tat, k.tat)
			changed = true
		}
		if k.grace > w.grace { // also where others have claimed as many in the same ticks
			w.grace, w.graceAt, changed = k.grace, max(w.graceAt, k.graceAt), true
		}
	}
	r.sort()
	return changed
}
