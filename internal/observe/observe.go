// Package observe tells what is true of the whole fleet as metrics: circuits,
// permits, bytes, pauses, who serves what, how long the queues are and since
// when their oldest waits, how full the streams are. What a worker counts of
// its own work is told by fetch.
package observe

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/meter"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Served is a provider that this process serves.
type Served struct {
	Provider string
	Gate     *budget.Gate
}

// Fleet collects what is true of the whole fleet: the same from whichever
// worker is asked, so a dashboard takes the maximum, never the sum. Gates and
// board are read without a round trip; queues are asked for their length at
// most every few seconds, one small request each, however many messages they
// hold.
type Fleet struct {
	js     jetstream.JetStream
	board  *fleet.View
	serve  []Served
	logger *zap.Logger
	failed prometheus.Counter

	mu        sync.Mutex // held through a refresh, so that scrapes at once ask once
	asked     time.Time
	connected time.Time // when a scrape last found a connection
	queues    map[queue]length
	streams   map[string]storage
}

const (
	// queuesLast is how long a queue's length is believed.
	queuesLast = time.Second
	// queuesForgotten is when a length that could not be asked for anew is no
	// longer told: no value is better than a wrong one.
	queuesForgotten = time.Minute
	// queuesTimeout bounds what a scrape may cost when the server is slow.
	queuesTimeout = 2 * time.Second
	// queuesAtOnce are asked for together.
	queuesAtOnce = 8
)

// storage is how full a stream is.
type storage struct {
	at                     time.Time
	subjects               uint64
	messages, bytes, limit float64
}

// What a fleet tells. Names without the prefix fetch_ are the contract's.
var (
	circuitState = desc("circuit_breaker_state", "Circuit of a provider: 0 closed, 1 half-open, 2 open.", "provider")
	circuitsOpen = desc("circuit_open_operations", "Operations of a provider whose own circuits are not closed.", "provider")
	dlqSize      = desc("dlq_size", "Dead letters that wait for their retry, review not included.", "provider")
	bytesUsed    = desc("bandwidth_used_bytes", "Bytes on the wire in this UTC month, by the whole fleet.", "provider")
	bytesLeft    = desc("bandwidth_remaining_pct", "What is left of the month's bytes, in percent; 100 without a limit.", "provider")

	bytesLimit     = desc("fetch_bandwidth_limit_bytes", "Bytes that a provider may cost in a month; 0 without a limit.", "provider")
	bytesThreshold = desc("fetch_bandwidth_threshold", "Highest announced threshold that the month has passed: 0, 70, 85 or 95.", "provider")
	monthSeconds   = desc("fetch_bandwidth_month_seconds", "Seconds until the UTC month ends and its counter with it.")

	queueDepth  = desc("fetch_queue_depth", "Requests in a queue, those in a worker's hands included.", "provider", "lane")
	queueOldest = desc("fetch_queue_oldest_seconds", "Age of the oldest request in a queue; 0 when it is empty.", "provider", "lane")
	dlqOldest   = desc("fetch_dlq_oldest_seconds", "Age of the oldest dead letter.", "provider")
	reviewSize  = desc("fetch_review_size", "Items that wait for a person's decision.", "provider")
	reviewAge   = desc("fetch_review_oldest_seconds", "Age of the oldest item that waits for a person.", "provider")

	permitLimit   = desc("fetch_permits_limit", "Calls that a limit allows in its window.", "provider", "window")
	permitUsed    = desc("fetch_permits_used", "Calls that a window has no room for any more: made in it, or claimed.", "provider", "window")
	permitQuota   = desc("fetch_permits_quota", "1 for a provider whose permits are those of a quota that it shares with others.", "provider", "quota")
	atOnceLimit   = desc("fetch_calls_at_once_limit", "Calls of the whole fleet that may be under way at once.", "provider")
	atOnceTaken   = desc("fetch_calls_at_once", "Of these: under way, or about to be, in the whole fleet.", "provider")
	permitForeign = desc("fetch_permits_foreign", "Calls that a provider has counted and this fleet did not make, until it counts anew.", "provider")
	providerPause = desc("fetch_provider_paused_seconds", "Seconds until a pause ends; 0 when not paused.", "provider")
	providerHold  = desc("fetch_provider_hold_seconds", "Seconds until a hold after a 429 ends.", "provider")
	workers       = desc("fetch_provider_workers", "Live workers that serve a provider.", "provider")
	fleetWorkers  = desc("fetch_fleet_workers", "Live workers.")

	streamMessages = desc("fetch_stream_messages", "Messages in a stream.", "stream")
	streamBytes    = desc("fetch_stream_bytes", "Bytes in a stream.", "stream")
	streamLimit    = desc("fetch_stream_limit_bytes", "Bytes that a stream may hold; 0 without a limit.", "stream")

	// Of this worker alone, and so to be summed.
	inFlight      = desc("fetch_calls_in_flight", "Calls that this worker is making.", "provider")
	waiting       = desc("fetch_permit_waiters", "Requests that wait for a permit in this worker.", "provider")
	permitsLapsed = desc("fetch_permits_lapsed_total", "Permits that this worker claimed and could not use in time.", "provider")
	unable        = desc("fetch_provider_unable", "1 if this worker cannot call a provider: too far from the server for a limit, older than who wrote its permits, or with another quota than those who serve it.", "provider")
	unsure        = desc("fetch_clock_unsure_seconds", "How wrong the NATS server's time may be, as this worker knows it.")

	fleetDescs = []*prometheus.Desc{
		circuitState, circuitsOpen, dlqSize, bytesUsed, bytesLeft, bytesLimit, bytesThreshold, monthSeconds,
		queueDepth, queueOldest, dlqOldest, reviewSize, reviewAge,
		permitLimit, permitUsed, permitQuota, atOnceLimit, atOnceTaken, providerPause, providerHold, permitForeign, workers, fleetWorkers,
		streamMessages, streamBytes, streamLimit, inFlight, waiting, permitsLapsed, unable, unsure,
	}
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// observedStreams are those whose fill an operator watches.
var observedStreams = []string{
	fetchworker.StreamRequests, wire.StreamReplay, fetchworker.StreamResults, wire.StreamDLQ,
	wire.StreamReview, fetchworker.StreamEvents, wire.StreamAudit, fetchworker.StreamBodies,
	"KV_" + wire.BucketCache,
}

// viewLasts is how long a view over the fleet is worth telling: as long as a
// worker's presence.
const viewLasts = 15 * time.Second

// New makes the collector. It is registered once a process.
func New(js jetstream.JetStream, board *fleet.View, serve []Served, logger *zap.Logger) *Fleet {
	return &Fleet{
		js: js, board: board, serve: serve, logger: logger,
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fetch_fleet_read_errors_total", Help: "Queues and streams that could not be asked for their length.",
		}),
		queues: map[queue]length{}, streams: map[string]storage{},
	}
}

// Describe tells what is collected.
func (f *Fleet) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range fleetDescs {
		ch <- d
	}
	f.failed.Describe(ch)
}

// Collect tells all of it.
func (f *Fleet) Collect(ch chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now, sure := time.Now(), time.Duration(0)
	for _, s := range f.serve {
		state := s.collect(tell)
		now, sure = state.Now, state.Unsure // the server's
		ch <- prometheus.MustNewConstMetric(permitsLapsed, prometheus.CounterValue, float64(state.Lapsed), s.Provider)
	}
	tell(unsure, sure.Seconds())
	providers := f.providers()
	if f.sees() {
		for _, p := range providers {
			f.collectView(tell, p, now)
		}
		tell(fleetWorkers, float64(len(f.board.Workers())))
	}
	f.collectQueues(tell, providers)
	f.failed.Collect(ch)
}

// sees reports whether the view over the fleet is young enough to be told:
// what it showed before the connection was lost says nothing of now.
func (f *Fleet) sees() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.js.Conn().IsConnected() {
		f.connected = time.Now()
	}
	return time.Since(f.connected) < viewLasts
}

// tell writes one value.
type tell func(d *prometheus.Desc, value float64, labels ...string)

// providers are those this worker serves and those the fleet knows of.
func (f *Fleet) providers() []string {
	all := f.board.Providers()
	for _, s := range f.serve {
		all = append(all, s.Provider)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// collect tells what a gate knows.
func (s *Served) collect(tell tell) budget.State {
	state, provider := s.Gate.State(), s.Provider
	tell(bytesUsed, float64(state.BytesUsed), provider)
	tell(bytesLimit, float64(state.BytesLimit), provider)
	tell(bytesLeft, remaining(state.BytesUsed, state.BytesLimit), provider)
	tell(bytesThreshold, threshold(state.BytesUsed, state.BytesLimit), provider)
	tell(inFlight, float64(state.InFlight), provider)
	tell(waiting, float64(state.Waiting), provider)
	tell(unable, boolean(state.Unable != ""), provider)
	return state
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// remaining is never below 0: what is over the limit is told by bytesUsed.
func remaining(used, limit int64) float64 {
	if limit <= 0 {
		return 100
	}
	return max(0, 100*(1-float64(used)/float64(limit)))
}

func threshold(used, limit int64) float64 {
	for _, percent := range []int64{95, 85, 70} {
		if limit > 0 && used*100 >= limit*percent {
			return float64(percent)
		}
	}
	return 0
}

// collectView tells what the fleet shares about a provider, served by this
// worker or not.
func (f *Fleet) collectView(tell tell, provider string, now time.Time) {
	v := f.board.Provider(provider, now)
	tell(circuitState, circuitNumber(v.Circuit.State), provider)
	tell(circuitsOpen, float64(len(v.Circuit.OpenOperations())), provider)
	tell(providerPause, secondsUntil(v.PausedUntil, now), provider)
	tell(providerHold, secondsUntil(v.HoldUntil, now), provider)
	tell(permitForeign, float64(v.Foreign.N), provider)
	if v.Quota != "" {
		tell(permitQuota, 1, provider, v.Quota)
	}
	if v.AtOnce > 0 {
		tell(atOnceLimit, float64(v.AtOnce), provider)
		tell(atOnceTaken, float64(v.Taken), provider)
	}
	// One that was retired, or that somebody only mistyped in a command, is not
	// missed.
	if len(v.Workers) > 0 || v.Registered && v.Control.Retired == nil {
		tell(workers, float64(len(v.Workers)), provider)
	}
	windows := v.Windows
	if len(windows) == 0 { // nobody has claimed yet
		windows = f.unclaimed(provider)
	}
	for _, w := range tightest(windows) {
		tell(permitLimit, float64(w.N), provider, windowName(w.Window))
		tell(permitUsed, float64(max(w.N-w.Left, 0)), provider, windowName(w.Window))
	}
}

// tightest leaves one of several limits over the same window, the one with the
// fewest calls left: a series may be told once only.
func tightest(windows []ledger.Usage) []ledger.Usage {
	byLength := map[time.Duration]ledger.Usage{}
	for _, w := range windows {
		if other, twice := byLength[w.Per]; !twice || w.Left < other.Left {
			byLength[w.Per] = w
		}
	}
	return slices.Collect(maps.Values(byLength))
}

// unclaimed are the windows of a provider of which nothing is used.
func (f *Fleet) unclaimed(provider string) []ledger.Usage {
	var windows []ledger.Usage
	for _, s := range f.serve {
		if s.Provider == provider {
			for _, w := range s.Gate.State().Limits {
				windows = append(windows, ledger.Usage{Window: w, Left: w.N})
			}
		}
	}
	return windows
}

func circuitNumber(s circuit.State) float64 {
	switch s {
	case circuit.HalfOpen:
		return 1
	case circuit.Open:
		return 2
	case circuit.Closed:
	}
	return 0
}

func secondsUntil(t, now time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(t.Sub(now), 0).Seconds()
}

// collectQueues tells the lengths and ages, asked for anew if they are old.
func (f *Fleet) collectQueues(tell tell, providers []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.asked) >= queuesLast && f.js.Conn().IsConnected() {
		f.ask(providers)
		f.asked = time.Now()
	}
	now := time.Now()
	tell(monthSeconds, meter.NextMonth(now).Sub(now).Seconds())
	for q, l := range f.queues {
		if now.Sub(l.at) < queuesForgotten {
			q.tell(tell, l, now)
		}
	}
	for name, s := range f.streams {
		if now.Sub(s.at) < queuesForgotten {
			tell(streamMessages, s.messages, name)
			tell(streamBytes, s.bytes, name)
			tell(streamLimit, s.limit, name)
		}
	}
}

// ask reads all streams, and the queues in those that hold something. What
// fails keeps its last value for a while.
func (f *Fleet) ask(providers []string) {
	ctx, cancel := context.WithTimeout(context.Background(), queuesTimeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(queuesAtOnce)
	var mu sync.Mutex
	read := func(what string, look func() (keep func(), err error)) {
		group.Go(func() error {
			keep, err := look()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				f.failed.Inc()
				f.logger.Debug("not asked for its length", zap.String("queue", what), zap.Error(err))
				return nil
			}
			keep()
			return nil
		})
	}
	for _, name := range observedStreams {
		read(name, func() (func(), error) {
			s, err := storageOf(ctx, f.js, name)
			return func() { f.streams[name] = s }, err
		})
	}
	_ = group.Wait() // errors are counted one by one
	holding := map[string]map[string]bool{}
	for _, q := range queuesOf("") {
		if holding[q.stream] == nil {
			holding[q.stream] = f.holding(ctx, q.stream, providers)
		}
	}
	for _, p := range providers {
		for _, q := range queuesOf(p) {
			read(q.filter, func() (func(), error) {
				if !holding[q.stream][p] {
					return func() { f.queues[q] = length{at: time.Now()} }, nil
				}
				l, err := q.ask(ctx, f.js.Conn())
				return func() { f.queues[q] = l }, err
			})
		}
	}
	_ = group.Wait()
}

func storageOf(ctx context.Context, js jetstream.JetStream, name string) (storage, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return storage{}, err
	}
	info := stream.CachedInfo()
	return storage{
		at:       time.Now(),
		subjects: info.State.NumSubjects,
		messages: float64(info.State.Msgs), bytes: float64(info.State.Bytes), limit: float64(max(info.Config.MaxBytes, 0)),
	}, nil
}
