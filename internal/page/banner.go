package page

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"fetchworker/internal/operate"
)

// pause is what people have paused alike.
type pause struct {
	Providers []string
	Until     time.Time
	By, Why   string
}

// pauses are all that are in force, which every view tells first. They are asked
// of what is watched, and cost nothing.
func (s *Server) pauses(now time.Time) (all []pause) {
	for _, p := range slices.Sorted(slices.Values(s.Fleet.Providers())) {
		view := s.Fleet.Provider(p, now)
		if view.PausedUntil.IsZero() {
			continue
		}
		order := view.Control.Pause
		i := slices.IndexFunc(all, func(x pause) bool {
			return x.By == order.By && x.Why == order.Reason && x.Until.Sub(view.PausedUntil).Abs() < time.Second
		})
		if i < 0 {
			all = append(all, pause{Until: view.PausedUntil, By: order.By, Why: order.Reason})
			i = len(all) - 1
		}
		all[i].Providers = append(all[i].Providers, p)
	}
	return all
}

// Words are the providers of a pause as a person says them.
func (p pause) Words() string {
	const named = 4
	switch n := len(p.Providers); {
	case n == 1:
		return p.Providers[0] + " is paused"
	case n > named:
		return plural(n, "provider is", "providers are") + " paused"
	default:
		return strings.Join(p.Providers[:n-1], ", ") + " and " + p.Providers[n-1] + " are paused"
	}
}

// Resume is where a pause is ended.
func (p pause) Resume() string {
	return "/control?" + url.Values{"do": {operate.ActResume}, "provider": p.Providers}.Encode()
}

// stopped reports whether there is anything of a provider to resume.
func stopped(s operate.Status) bool {
	return !s.PausedUntil.IsZero() || !s.HoldUntil.IsZero() || s.Circuit != "closed" || len(s.Operations) > 0
}

// Stopped reports whether there is anything to resume, and Paused whether
// everything is paused.
func (o *overall) Stopped() bool { return slices.ContainsFunc(o.Providers, stopped) }

func (o *overall) Paused() bool {
	return !slices.ContainsFunc(o.Providers, func(s operate.Status) bool { return s.PausedUntil.IsZero() })
}
