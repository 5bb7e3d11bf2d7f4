package budget

import "fetchworker/internal/budget/ledger"

// event is something that happens at a time.
type event struct {
	at     ledger.Instant
	serial int
	run    func()
}

// agenda is a heap of events, the next one first.
type agenda []event

// before orders events by time, and those of one time as they were added.
func (e event) before(f event) bool { return e.at < f.at || e.at == f.at && e.serial < f.serial }

func (a *agenda) add(e event) {
	h := append(*a, e)
	for i := len(h) - 1; i > 0 && h[i].before(h[(i-1)/2]); i = (i - 1) / 2 {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
	}
	*a = h
}

func (a *agenda) next() event {
	h := *a
	first, last := h[0], len(h)-1
	h[0], h[last] = h[last], event{}
	h = h[:last]
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < last && h[child].before(h[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*a = h
	return first
}
