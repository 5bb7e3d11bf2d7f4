package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
)

func (c *cli) cmdStatus() *cobra.Command {
	var watch bool
	var every time.Duration
	var provider string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every provider on one screen",
		Long: `Show of every provider what waits and since when, what is in flight, whether
any worker serves it, its circuit, permits, bytes, dead letters and review.
It reads the streams and the shared state, so it works with every worker down.`,
		Example: `  replayer status
  replayer status --watch
  replayer status --provider fmp --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return misused("give --every 2s or so", "--every %v is too short", every)
			}
			ctx, l, done, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			f, err := l.fleet(ctx)
			if err != nil {
				return err
			}
			defer f.Close()
			if !watch {
				return c.status(ctx, f, provider, "")
			}
			return c.watchStatus(ctx, f, provider, every)
		}),
	}
	cmd.Flags().StringVar(&provider, "provider", "", "only this `provider`")
	cmd.Flags().BoolVar(&watch, "watch", false, "refresh in place until Ctrl-C")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often --watch refreshes")
	return cmd
}

// watchStatus refreshes until Ctrl-C, which is how it is meant to end.
func (c *cli) watchStatus(ctx context.Context, f *fleet, provider string, every time.Duration) error {
	const home = "\x1b[H\x1b[2J"
	before := ""
	if terminal(c.out) && !c.json {
		before = home
	}
	for {
		err := c.status(ctx, f, provider, before)
		var none *failure
		if errors.As(err, &none) && none.code == exitNothing {
			c.sayf("%v", err) // it may come
			err = nil
		}
		if err == nil {
			err = rest(ctx, every)
		}
		if ctx.Err() != nil && c.refused.Load() == nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *cli) status(ctx context.Context, f *fleet, provider, before string) error {
	providers, err := f.known(ctx)
	if err != nil {
		return err
	}
	if provider != "" {
		providers = slices.DeleteFunc(providers, func(p string) bool { return p != provider })
	}
	if len(providers) == 0 {
		return nothing("a worker with a provider's key set, or a request, makes it known", "no provider is known here")
	}
	inFlight, err := f.inFlight(ctx)
	if err != nil {
		return err
	}
	var lines []statusLine
	for _, p := range providers {
		line, err := f.statusOf(ctx, p, inFlight)
		if err != nil {
			return err
		}
		if line.BytesLimit == 0 {
			line.BytesLimit = c.ownBytesLimit(p)
		}
		line.BytesOutAt = runsOut(line.BytesUsed, line.BytesLimit, line.At)
		lines = append(lines, line)
	}
	replayers, err := f.l.replayers(ctx)
	if err != nil {
		return err
	}
	if c.json {
		for _, line := range lines {
			line.Replayers = replayers
			if err := c.object(line); err != nil {
				return err
			}
		}
		return nil
	}
	return c.printf("%s%s", before, c.screen(lines, replayers, f.l.now()))
}

// statusLine is one provider in status --json.
type statusLine struct {
	Provider      string        `json:"provider"`
	At            time.Time     `json:"at"`
	Workers       []string      `json:"workers"`
	NoWorkerSince time.Time     `json:"no_worker_since,omitzero"` // as far as this command has seen
	Replayers     bool          `json:"replayers"`                // whether any replayer runs
	Lanes         []laneLine    `json:"lanes"`
	Circuit       string        `json:"circuit"` // closed, half_open, open
	CircuitUntil  time.Time     `json:"circuit_until,omitzero"`
	CircuitWhy    string        `json:"circuit_why,omitempty"`
	PausedUntil   time.Time     `json:"paused_until,omitzero"`
	PausedBy      string        `json:"paused_by,omitempty"`
	PausedWhy     string        `json:"paused_why,omitempty"`
	HoldUntil     time.Time     `json:"hold_until,omitzero"`
	Held          string        `json:"held,omitempty"` // why letters do not go: paused, circuit_open, throttled, quota
	Permits       []permitsLine `json:"permits"`
	LimitsChanged string        `json:"limits_changed,omitempty"` // by an operator
	LimitsUntil   time.Time     `json:"limits_until,omitzero"`
	BytesUsed     int64         `json:"bytes_used"` // this UTC month
	BytesLimit    int64         `json:"bytes_limit,omitempty"`
	BytesOutAt    time.Time     `json:"bytes_out_at,omitzero"` // at this month's pace, if before its end
	Letters       int           `json:"letters"`               // in the DLQ, the sum of the next three
	Waiting       int           `json:"waiting"`               // for their time
	Due           int           `json:"due"`
	HeldLetters   int           `json:"held_letters"` // by the circuit, a pause, a hold, a quota
	Review        int           `json:"review"`
}

type laneLine struct {
	Lane     string    `json:"lane"` // interactive, batch, replay
	Waiting  int       `json:"waiting"`
	InFlight int       `json:"in_flight"`
	Oldest   time.Time `json:"oldest,omitzero"`
}

type permitsLine struct {
	Limit      string `json:"limit"` // as 120/min
	Left       int    `json:"left"`
	LastMinute int    `json:"last_minute"`
}

// known are all providers that a worker serves or served, or of which
// anything is stored.
func (f *fleet) known(ctx context.Context) ([]string, error) {
	names := map[string]bool{}
	for _, p := range f.Providers() {
		names[p] = true
	}
	stream, err := f.l.js.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		return nil, fmt.Errorf("look up the requests: %w", err)
	}
	consumers := stream.ConsumerNames(ctx)
	for name := range consumers.Name() {
		if p := broker.ServedProvider(name); p != "" {
			names[p] = true
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers: %w", err)
	}
	for _, stream := range []string{fetchworker.StreamRequests, fetchworker.StreamReplay, fetchworker.StreamDLQ, fetchworker.StreamReview} {
		if err := f.l.storedProviders(ctx, stream, names); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// storedProviders adds those of which a stream holds something. The subjects
// are listed only if the known ones do not account for all: a list of a
// hundred thousand is not for every refresh.
func (l *link) storedProviders(ctx context.Context, stream string, names map[string]bool) error {
	s, err := l.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("look up %s: %w", stream, err)
	}
	left := int(min(s.CachedInfo().State.Msgs, 1<<40))
	for p := range names {
		count, _, err := l.Count(ctx, stream, prefixes[stream]+p+".>")
		if err != nil {
			return err
		}
		left -= count
	}
	if left <= 0 {
		return nil
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefixes[stream]+">"))
	if err != nil {
		return fmt.Errorf("list the subjects of %s: %w", stream, err)
	}
	for subject := range info.State.Subjects {
		// Anybody may publish to a name that is none, such as a wildcard.
		if a, err := fetchworker.ParseSubject(subject); err == nil && fetchworker.ValidToken(a.Provider) {
			names[a.Provider] = true
		}
	}
	return nil
}

var prefixes = map[string]string{
	fetchworker.StreamRequests: "fetch.request.",
	fetchworker.StreamReplay:   "fetch.replay.",
	fetchworker.StreamDLQ:      "fetch.dlq.",
	fetchworker.StreamReview:   "fetch.review.",
}

// inFlight is how many requests the workers hold, by provider and lane.
func (f *fleet) inFlight(ctx context.Context) (map[[2]string]int, error) {
	held := map[[2]string]int{}
	for _, name := range []string{fetchworker.StreamRequests, fetchworker.StreamReplay} {
		stream, err := f.l.js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
		list := stream.ListConsumers(ctx)
		for info := range list.Info() {
			lane := replayLane
			p, isReplay := strings.CutSuffix(info.Name, "-replay")
			if !isReplay || name != fetchworker.StreamReplay {
				p = broker.ServedProvider(info.Name)
				rest, _ := strings.CutPrefix(info.Name, p+"-")
				lane, _, _ = strings.Cut(rest, "-")
			}
			held[[2]string{p, lane}] += info.NumAckPending
		}
		if err := list.Err(); err != nil {
			return nil, fmt.Errorf("list the consumers of %s: %w", name, err)
		}
	}
	return held, nil
}

const replayLane = "replay"

// statusOf gathers one provider.
func (f *fleet) statusOf(ctx context.Context, p string, inFlight map[[2]string]int) (statusLine, error) {
	now := f.l.now()
	view := f.View(p, now)
	s := statusLine{
		Provider: p, At: now.UTC(), Workers: []string{}, NoWorkerSince: view.NoneSince,
		Circuit: string(view.Circuit.State), PausedUntil: view.PausedUntil, HoldUntil: view.HoldUntil, Permits: []permitsLine{},
	}
	for _, w := range view.Workers {
		s.Workers = append(s.Workers, w.Name)
	}
	reason, until := f.Held(p, now)
	s.Held = string(reason)
	if view.Circuit.Held() {
		s.CircuitWhy, s.CircuitUntil = view.Circuit.Why, view.Circuit.OpenUntil
		if reason == fetchworker.ReasonCircuitOpen {
			s.CircuitUntil = until
		}
	}
	if !view.PausedUntil.IsZero() {
		s.PausedBy, s.PausedWhy = view.Control.Pause.By, view.Control.Pause.Reason
	}
	for _, w := range view.Windows {
		s.Permits = append(s.Permits, permitsLine{budget.Limits{w.Window}.String(), w.Left, w.LastMinute})
	}
	if order := view.Control.Limits; order != nil && (order.Until.IsZero() || now.Before(order.Until)) {
		s.LimitsChanged, s.LimitsUntil = order.Limits, order.Until
	}
	for _, lane := range []struct{ name, stream, filter string }{
		{string(fetchworker.LaneInteractive), fetchworker.StreamRequests, "fetch.request." + p + ".interactive.>"},
		{string(fetchworker.LaneBatch), fetchworker.StreamRequests, "fetch.request." + p + ".batch.>"},
		{replayLane, fetchworker.StreamReplay, "fetch.replay." + p + ".>"},
	} {
		count, first, err := f.l.Count(ctx, lane.stream, lane.filter)
		if err != nil {
			return s, err
		}
		held := inFlight[[2]string{p, lane.name}]
		s.Lanes = append(s.Lanes, laneLine{lane.name, max(count-held, 0), min(held, count), first.Time})
	}
	if err := f.bytes(ctx, &s, now); err != nil {
		return s, err
	}
	if err := f.letters(ctx, &s, now); err != nil {
		return s, err
	}
	var err error
	s.Review, _, err = f.l.Count(ctx, fetchworker.StreamReview, "fetch.review."+p+".>")
	return s, err
}

// letters counts a provider's dead letters. Only those of an open gate need
// to be read: all others are held.
func (f *fleet) letters(ctx context.Context, s *statusLine, now time.Time) error {
	var err error
	filter := browse.Filter{Provider: s.Provider}
	if s.Letters, _, err = f.l.Count(ctx, fetchworker.StreamDLQ, filter.Subject(fetchworker.StreamDLQ)); err != nil || s.Letters == 0 {
		return err
	}
	if s.Held != "" {
		s.HeldLetters = s.Letters
		return nil
	}
	edge, err := f.l.Edge(ctx, fetchworker.StreamDLQ)
	if err != nil {
		return err
	}
	s.Letters = 0
	for found, err := range f.l.Walk(ctx, fetchworker.StreamDLQ, filter, edge) {
		if err != nil {
			return err
		}
		s.Letters++
		if waits(found.Letter, now) {
			s.Waiting++
		} else {
			s.Due++
		}
	}
	return nil
}

// bytes reads this month's counter, and the limit as the fleet last told it
// in an event: only workers know their configuration.
func (f *fleet) bytes(ctx context.Context, s *statusLine, now time.Time) error {
	count, raw, err := f.l.Count(ctx, fetchworker.StreamBudget, fetchworker.BytesSubject(s.Provider, now))
	if err != nil || count == 0 {
		return err
	}
	var counter struct {
		Value string `json:"val"`
	}
	if err := json.Unmarshal(raw.Data, &counter); err != nil {
		return fmt.Errorf("bytes of %s: %w", s.Provider, err)
	}
	if s.BytesUsed, err = strconv.ParseInt(counter.Value, 10, 64); err != nil {
		return fmt.Errorf("bytes of %s: %w", s.Provider, err)
	}
	s.BytesLimit, err = f.bytesLimit(ctx, s.Provider)
	return err
}

// runsOut is when a month's bytes are used up at its pace so far; zero if not
// in this month.
func runsOut(used, limit int64, now time.Time) time.Time {
	now = now.UTC()
	start := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	gone := now.Sub(start)
	if limit <= 0 || used <= 0 || gone <= 0 {
		return time.Time{}
	}
	if used >= limit {
		return now
	}
	at := start.Add(time.Duration(float64(gone) * float64(limit) / float64(used)))
	if !at.Before(start.AddDate(0, 1, 0)) {
		return time.Time{}
	}
	return at
}
