package usage

import "time"

// Ends are final answers: with what was asked for, and without.
type Ends struct{ Good, Failed int64 }

// RecentIs how far back Recent looks, to the minute.
const RecentIs = 15 * time.Minute

// recent are the final answers of a provider by minute, of the last RecentIs.
type recent [RecentIs / time.Minute]struct {
	minute int64
	Ends
}

func (r *recent) add(what string, n, minute int64) {
	slot := &r[minute%int64(len(r))]
	if slot.minute != minute {
		slot.minute, slot.Ends = minute, Ends{}
	}
	switch what {
	case OK, Cached, Stale:
		slot.Good += n
	case Failed:
		slot.Failed += n
	}
}

// Recent are the final answers that this book counted in the last quarter of
// an hour, by provider.
func (b *Book) Recent(now time.Time) map[string]Ends {
	all := map[string]Ends{}
	if b == nil {
		return all
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	minute := now.Unix() / 60
	for provider, r := range b.recent {
		var sum Ends
		for _, slot := range r {
			if slot.minute > minute-int64(len(r)) && slot.minute <= minute {
				sum.Good, sum.Failed = sum.Good+slot.Good, sum.Failed+slot.Failed
			}
		}
		if sum != (Ends{}) {
			all[provider] = sum
		}
	}
	return all
}
