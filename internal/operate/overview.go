package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/dlq"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Overview is the whole fleet at a moment of the server's time.
type Overview struct {
	At        time.Time
	Replayers bool // whether any runs
	Skew      time.Duration
	Providers []Status
	Unserved  Unserved
	// Keyless are providers that the workers know and have no key for: the
	// variable that would hold it, by provider.
	Keyless map[string]string
}

// lookedAt is how many providers are asked for at a time.
const lookedAt = 4

// Overview gathers all providers, or the one given, if it is known.
func (f *Fleet) Overview(ctx context.Context, only string) (Overview, error) {
	o := Overview{At: f.desk.Now(), Skew: f.desk.Skew(), Keyless: f.Keyless()}
	var survey Survey
	var inFlight map[[2]string]int
	var sampled map[string][]dlq.Letter
	var day today
	var first errgroup.Group // together: where no replayer runs, to be sure of it takes a while
	first.Go(func() (err error) { survey, err = f.Survey(ctx); return err })
	first.Go(func() (err error) { inFlight, err = f.InFlight(ctx); return err })
	first.Go(func() (err error) { o.Replayers, err = f.desk.Replayers(ctx); return err })
	first.Go(func() (err error) { sampled, err = f.sampled(ctx); return err })
	first.Go(func() (err error) { day, err = f.today(ctx, only, o.At); return err })
	if err := first.Wait(); err != nil {
		return Overview{}, err
	}
	o.Unserved = survey.Unserved
	names := survey.Providers
	if only != "" { // also one that nobody serves
		names, o.Unserved = slices.DeleteFunc([]string{only}, func(p string) bool { return !survey.Knows(p) }), Unserved{}
		maps.DeleteFunc(o.Keyless, func(p, _ string) bool { return p != only })
	}
	for _, p := range names {
		delete(o.Keyless, p)
	}
	o.Providers = make([]Status, len(names))
	var group errgroup.Group
	group.SetLimit(lookedAt)
	for i, p := range names {
		group.Go(func() (err error) {
			o.Providers[i], err = f.status(ctx, p, inFlight, sampled[p])
			o.Providers[i].Replayers = o.Replayers
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Overview{}, err
	}
	if day.told {
		day.add(o.Providers)
	}
	return o, nil
}

// today is what failed today, and what was called for whom.
type today struct {
	told   bool // by streams that no earlier version made
	causes []Cause
	used   []Used
}

func (f *Fleet) today(ctx context.Context, only string, at time.Time) (t today, err error) {
	since := UsageFilter{Provider: only, Since: at}
	t.causes, err = f.desk.Causes(ctx, since)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	t.told = true
	t.used, err = f.desk.Usage(ctx, since)
	return t, err
}

// add tells each provider's part.
func (t today) add(providers []Status) {
	for i := range providers {
		s := &providers[i]
		s.Today = &Used{}
		for _, c := range t.causes {
			if c.Provider == s.Provider && len(s.Causes) < causesShown {
				s.Causes = append(s.Causes, c)
			}
		}
		for _, u := range SumBy(t.used, "") {
			if u.Provider != s.Provider {
				continue
			}
			s.Today.Calls, s.Today.Bytes = s.Today.Calls+u.Calls, s.Today.Bytes+u.Bytes
			s.Today.OK, s.Today.Cached = s.Today.OK+u.OK, s.Today.Cached+u.Cached
			s.Today.Stale, s.Today.Failed = s.Today.Stale+u.Stale, s.Today.Failed+u.Failed
			if u.Calls > s.MostBy.Calls {
				s.MostBy = MostBy{u.Agent, u.Calls}
			}
		}
	}
}

// causesShown is how many causes a status tells.
const causesShown = 3

// MostBy is the agent for whom most of a provider's calls of a day were made.
type MostBy struct {
	Agent string `json:"agent"`
	Calls int64  `json:"calls"`
}

// backlog says how much is to be called for, and when it is gone at the
// present limit: nobody knows where no limit is in force, where there is no
// worker, where what holds it up has no known end, and while a circuit is open
// for it.
func (f *Fleet) backlog(s *Status, now time.Time) {
	for _, lane := range s.Lanes {
		s.Backlog += lane.Waiting + lane.InFlight
	}
	s.Backlog += s.Due + s.HeldLetters
	hold, held := f.Hold(s.Provider)
	view := f.Provider(s.Provider, now)
	if s.Backlog == 0 || len(s.Workers) == 0 || held && hold.Until.IsZero() || hold.Reason == fetchworker.ReasonCircuitOpen {
		return
	}
	if s.Backlog == s.Due+s.HeldLetters && view.Circuit.AnyHeld() { // only letters are left, and they may be its
		return
	}
	takes := WindowsTake(s.Backlog, view.Windows)
	if takes == 0 {
		return
	}
	gone := hold.ends(now).Add(takes)
	if order := ordered(view, now); order != nil && !order.Until.IsZero() && order.Until.Before(gone) {
		if own := WindowsTake(s.Backlog, f.unused(s.Provider)); own > 0 && order.Until.Add(own).Before(gone) {
			gone = order.Until.Add(own)
		}
	}
	s.BacklogGone = gone.UTC()
}

// unused are the windows of a provider's workers as they are of themselves, with
// nothing used; none where they tell none, or not the same.
func (f *Fleet) unused(provider string) (windows []ledger.Usage) {
	limits, _ := f.Configured(provider)
	for _, window := range limits {
		windows = append(windows, ledger.Usage{Window: window, Left: window.N})
	}
	return windows
}

// ends is when calls can begin: now, where nothing is known to hold them up.
func (h Hold) ends(now time.Time) time.Time {
	if h.Until.After(now) {
		return h.Until
	}
	return now
}

// Gone is when calls for so many more of each provider are made at the present
// limits; zero: nobody knows, as while a circuit is open.
func (f *Fleet) Gone(more map[string]int) (last time.Time) {
	now := f.desk.Now()
	for p, n := range more {
		takes := WindowsTake(n, f.Provider(p, now).Windows)
		if takes == 0 {
			continue
		}
		hold, _ := f.Hold(p)
		if hold.Reason == fetchworker.ReasonCircuitOpen {
			return time.Time{}
		}
		if at := hold.ends(now).Add(takes); at.After(last) {
			last = at
		}
	}
	return last
}

// WindowsTake is how long n calls take from now on in windows that are partly
// used; zero: there is no limit.
func WindowsTake(n int, windows []ledger.Usage) time.Duration {
	var longest time.Duration
	for _, w := range windows {
		if w.N > 0 {
			longest = max(longest, time.Second, time.Duration(float64(w.Per)*float64(max(n-w.Left, 0))/float64(w.N)))
		}
	}
	return longest
}

// Waiting is how many requests each agent has in a provider's queues, and how
// many one may have.
func (f *Fleet) Waiting(ctx context.Context, provider string) (agents map[string]int, most int, err error) {
	requests, err := f.desk.JS.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		return nil, 0, fmt.Errorf("look up the requests: %w", err)
	}
	agents = map[string]int{}
	subjects, err := f.desk.subjects(ctx, requests, prefixes[fetchworker.StreamRequests]+provider+".>")
	if err != nil {
		return nil, 0, err
	}
	for subject, n := range subjects {
		if a, err := wire.ParseSubject(subject); err == nil {
			agents[a.Agent] += n
		}
	}
	return agents, int(requests.CachedInfo().Config.MaxMsgsPerSubject), nil
}
