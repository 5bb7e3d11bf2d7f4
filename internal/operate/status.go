package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/dlq"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// Status is all that is known of one provider. Missing is left out.
type Status struct {
	Provider      string         `json:"provider"`
	At            time.Time      `json:"at"`
	Workers       []string       `json:"workers"`
	Served        bool           `json:"served"`                   // somebody serves it, or has served it
	NoWorkerSince time.Time      `json:"no_worker_since,omitzero"` // as far as this command has seen
	Replayers     bool           `json:"replayers"`                // whether any replayer runs
	Lanes         []LaneStatus   `json:"lanes"`
	Circuit       string         `json:"circuit"` // closed, half_open, open
	CircuitUntil  time.Time      `json:"circuit_until,omitzero"`
	CircuitWhy    string         `json:"circuit_why,omitempty"`
	CircuitAgent  string         `json:"circuit_agent,omitempty"` // open for this agent's calls only
	CircuitCall   string         `json:"circuit_call,omitempty"`  // open for this one call only
	Operations    []OpenStatus   `json:"open_operations"`         // whose own circuits are not closed
	PausedUntil   time.Time      `json:"paused_until,omitzero"`
	PausedBy      string         `json:"paused_by,omitempty"`
	PausedWhy     string         `json:"paused_why,omitempty"`
	HoldUntil     time.Time      `json:"hold_until,omitzero"`
	Held          string         `json:"held,omitempty"` // why letters do not go: paused, circuit_open, throttled, quota
	Permits       []PermitStatus `json:"permits"`
	Quota         string         `json:"quota,omitempty"`         // that its permits are of
	Sharing       []string       `json:"shares_with,omitempty"`   // the providers that share it, but this one
	AtOnce        int            `json:"at_once,omitempty"`       // calls of the whole fleet that may be under way at once
	AtOnceTaken   int            `json:"at_once_taken,omitempty"` // of them: under way, or about to be
	NextPermitAt  time.Time      `json:"next_permit_at,omitzero"` // where none can be had within the next seconds
	Foreign       int            `json:"foreign_calls,omitempty"` // that the provider counted and this fleet did not make
	ForeignUntil  time.Time      `json:"foreign_until,omitzero"`
	Unable        []string       `json:"unable,omitempty"`         // workers that cannot call it, and why
	LimitsChanged string         `json:"limits_changed,omitempty"` // by an operator
	LimitsUntil   time.Time      `json:"limits_until,omitzero"`
	LimitsBy      string         `json:"limits_by,omitempty"`
	LimitsWhy     string         `json:"limits_why,omitempty"`
	BytesUsed     int64          `json:"bytes_used"` // this UTC month
	BytesLimit    int64          `json:"bytes_limit,omitempty"`
	BytesOutAt    time.Time      `json:"bytes_out_at,omitzero"` // at this month's pace, if before its end
	Letters       int            `json:"letters"`               // in the DLQ, the sum of the next three
	Waiting       int            `json:"waiting"`               // for their time
	Due           int            `json:"due"`
	Sampled       bool           `json:"sampled,omitempty"` // there are too many to read: waiting and due are of a sample
	HeldLetters   int            `json:"held_letters"`      // by the circuit, a pause, a hold, a quota
	Review        int            `json:"review"`
	Backlog       int            `json:"backlog"`                  // to be called for: the lanes, and the letters that are due or held
	BacklogGone   time.Time      `json:"backlog_gone_at,omitzero"` // at the present limit; missing where nobody knows
	Today         *Used          `json:"today,omitempty"`          // calls, bytes and answers of this UTC day; missing where nobody counts
	Recent        *fleet.Ends    `json:"recent,omitempty"`         // final answers of the last quarter of an hour, by the workers that live; missing where none tells
	MostBy        MostBy         `json:"most_by,omitzero"`         // for whom most of today's calls were made
	Causes        []Cause        `json:"causes_today,omitempty"`   // of the calls that failed today, the most frequent
}

// OpenStatus is an operation whose circuit is not closed.
type OpenStatus struct {
	Operation string    `json:"operation"` // of get with its path
	Circuit   string    `json:"circuit"`   // half_open, open
	Agent     string    `json:"agent,omitempty"`
	Until     time.Time `json:"until"` // when a probe is due
	Why       string    `json:"why,omitempty"`
}

// LaneStatus is one lane of a provider.
type LaneStatus struct {
	Lane     string    `json:"lane"` // interactive, batch, replay
	Waiting  int       `json:"waiting"`
	InFlight int       `json:"in_flight"`
	Oldest   time.Time `json:"oldest,omitzero"`
}

// PermitStatus is one window of a provider's limits.
type PermitStatus struct {
	Limit      string `json:"limit"` // as 120/min
	Left       int    `json:"left"`
	LastMinute int    `json:"last_minute"`
	Group      string `json:"group,omitempty"` // of operations whose limit it is; empty: the provider's
}

// InFlight is how many requests the workers hold, by provider and lane.
func (f *Fleet) InFlight(ctx context.Context) (map[[2]string]int, error) {
	held := map[[2]string]int{}
	for _, name := range []string{fetchworker.StreamRequests, wire.StreamReplay} {
		stream, err := f.desk.JS.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", name, err)
		}
		list := stream.ListConsumers(ctx)
		for info := range list.Info() {
			lane := replayLane
			p, isReplay := strings.CutSuffix(info.Name, "-replay")
			if !isReplay || name != wire.StreamReplay {
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

// aMoment is a wait for a permit that is nothing to tell.
const aMoment = 2 * time.Second

// Status gathers one provider.
func (f *Fleet) Status(ctx context.Context, p string, inFlight map[[2]string]int) (Status, error) {
	return f.status(ctx, p, inFlight, nil)
}

// status is Status with letters of the provider's that were read already.
func (f *Fleet) status(ctx context.Context, p string, inFlight map[[2]string]int, sampled []dlq.Letter) (Status, error) {
	now := f.desk.Now()
	view := f.Provider(p, now)
	s := Status{
		Provider: p, At: now.UTC(), Workers: []string{}, Served: view.Registered, NoWorkerSince: view.NoneSince,
		Circuit: string(view.Circuit.State), PausedUntil: view.PausedUntil, HoldUntil: view.HoldUntil, Permits: []PermitStatus{},
		Operations: []OpenStatus{},
	}
	for _, w := range view.Workers {
		s.Workers = append(s.Workers, w.Name)
		if w.Recent != nil {
			if s.Recent == nil {
				s.Recent = &fleet.Ends{}
			}
			s.Recent.Good, s.Recent.Failed = s.Recent.Good+w.Recent[p].Good, s.Recent.Failed+w.Recent[p].Failed
		}
		if why := w.Unable[p]; why != "" {
			s.Unable = append(s.Unable, w.Name+": "+why)
		}
	}
	reason, until := f.Held(p, now)
	s.Held = string(reason)
	if view.Circuit.Held() {
		s.CircuitWhy, s.CircuitUntil = view.Circuit.Why, view.Circuit.OpenUntil
		s.CircuitAgent, s.CircuitCall = view.Circuit.Agent, view.Circuit.Call
		if reason == fetchworker.ReasonCircuitOpen {
			s.CircuitUntil = until
		}
	}
	for _, o := range view.Circuit.OpenOperations() {
		s.Operations = append(s.Operations, OpenStatus{o.Name, string(o.State), o.Agent, o.Until(), o.Why})
	}
	if !view.PausedUntil.IsZero() {
		s.PausedBy, s.PausedWhy = view.Control.Pause.By, view.Control.Pause.Reason
	}
	for _, w := range slices.Concat(view.Windows, view.Groups) {
		s.Permits = append(s.Permits, PermitStatus{ledger.Limits{w.Window}.String(), w.Left, w.LastMinute, w.Group})
	}
	s.Quota, s.AtOnce, s.AtOnceTaken = view.Quota, view.AtOnce, view.Taken
	s.Sharing = slices.DeleteFunc(view.Sharing, func(other string) bool { return other == p })
	if view.NextAt.Sub(now) > aMoment {
		s.NextPermitAt = view.NextAt.UTC()
	}
	if view.Foreign.N > 0 {
		s.Foreign, s.ForeignUntil = view.Foreign.N, view.Foreign.Until.Time()
	}
	if order := ordered(view, now); order != nil {
		s.LimitsChanged, s.LimitsUntil, s.LimitsBy, s.LimitsWhy = order.Limits, order.Until, order.By, order.Reason
	}
	for _, lane := range []struct{ name, stream, filter string }{
		{string(fetchworker.LaneInteractive), fetchworker.StreamRequests, "fetch.request." + p + ".interactive.>"},
		{string(fetchworker.LaneBatch), fetchworker.StreamRequests, "fetch.request." + p + ".batch.>"},
		{replayLane, wire.StreamReplay, "fetch.replay." + p + ".>"},
	} {
		count, first, err := f.desk.Count(ctx, lane.stream, lane.filter)
		if err != nil {
			return s, err
		}
		held := inFlight[[2]string{p, lane.name}]
		s.Lanes = append(s.Lanes, LaneStatus{lane.name, max(count-held, 0), min(held, count), first.Time})
	}
	if err := f.bytes(ctx, &s, now); err != nil {
		return s, err
	}
	if err := f.letters(ctx, &s, sampled, now); err != nil {
		return s, err
	}
	f.backlog(&s, now)
	var err error
	s.Review, _, err = f.desk.Count(ctx, wire.StreamReview, "fetch.review."+p+".>")
	return s, err
}

// letters counts a provider's dead letters. Only those of an open gate need
// to be read: all others are held.
func (f *Fleet) letters(ctx context.Context, s *Status, sampled []dlq.Letter, now time.Time) (err error) {
	subject := prefixes[wire.StreamDLQ] + s.Provider + ".>"
	if counted, known := f.counted[s.Provider]; known {
		s.Letters = counted // by the survey, just now
	} else if s.Letters, _, err = f.desk.Count(ctx, wire.StreamDLQ, subject); err != nil {
		return err
	}
	switch {
	case s.Letters == 0:
		return nil
	case s.Held != "":
		s.HeldLetters = s.Letters
		return nil
	}
	if s.Letters > lettersRead {
		return f.sample(ctx, s, sampled, now)
	}
	edge, err := f.desk.Edge(ctx, wire.StreamDLQ)
	if err != nil {
		return err
	}
	s.Letters = 0
	for raw, err := range f.desk.First(ctx, wire.StreamDLQ, subject, 1, edge, 2*lettersRead) {
		if err != nil {
			return err
		}
		s.Letters++
		if l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data); err == nil && Waits(l, now) {
			s.Waiting++
		}
	}
	s.Due = s.Letters - s.Waiting
	return nil
}

// bytes reads this month's counter, and its limit: as the workers that live are
// configured, the smallest, or else as the fleet last told it in an event.
func (f *Fleet) bytes(ctx context.Context, s *Status, now time.Time) error {
	for _, w := range f.Provider(s.Provider, now).Workers {
		if limit := w.Bytes[s.Provider]; limit > 0 && (s.BytesLimit == 0 || limit < s.BytesLimit) {
			s.BytesLimit = limit
		}
	}
	count, raw, err := f.desk.Count(ctx, wire.StreamBudget, wire.BytesSubject(s.Provider, now))
	if err != nil || count == 0 {
		return err
	}
	if s.BytesUsed, err = store.Total(raw.Data); err != nil {
		return fmt.Errorf("bytes of %s: %w", s.Provider, err)
	}
	if s.BytesLimit == 0 {
		s.BytesLimit, err = f.bytesLimit(ctx, s.Provider)
	}
	return err
}

// RunsOut is when a month's bytes are used up at its pace so far; zero if not
// in this month.
func RunsOut(used, limit int64, now time.Time) time.Time {
	now = now.UTC()
	start := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	gone := now.Sub(start)
	if limit <= 0 || used <= 0 || gone <= 0 {
		return time.Time{}
	}
	if used >= limit {
		return now
	}
	takes := float64(gone) * float64(limit) / float64(used)
	if takes >= float64(start.AddDate(0, 1, 0).Sub(start)) { // it may be centuries, which no Duration holds
		return time.Time{}
	}
	return start.Add(time.Duration(takes))
}

// bytesLimit is a provider's month's budget as the last budget event told it;
// 0 if none has.
func (f *Fleet) bytesLimit(ctx context.Context, provider string) (int64, error) {
	raw, err := f.desk.Log.Last(ctx, fetchworker.StreamEvents, wire.EventSubject(budget.KindBudget, provider))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil // below 70 %
	}
	if err != nil {
		return 0, fmt.Errorf("last budget event of %s: %w", provider, err)
	}
	var event struct {
		Data struct {
			Limit int64 `json:"limit_bytes"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw.Data, &event); err != nil {
		return 0, fmt.Errorf("last budget event of %s: %w", provider, err)
	}
	return event.Data.Limit, nil
}
