package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// laneReplay is what the lane of a replayed request is called in metrics.
const laneReplay = "replay"

// queue is a provider's part of a stream.
type queue struct {
	stream, filter string
	count, age     *prometheus.Desc
	provider, lane string // lane is empty where the metric has no such label
}

// length is how many messages a queue held at a time, and since when the
// oldest has been there.
type length struct {
	at     time.Time
	count  int
	oldest time.Time
}

func queuesOf(provider string) []queue {
	lane := func(l fetchworker.Lane) queue {
		return queue{fetchworker.StreamRequests, "fetch.request." + provider + "." + string(l) + ".>", queueDepth, queueOldest, provider, string(l)}
	}
	return []queue{
		lane(fetchworker.LaneInteractive),
		lane(fetchworker.LaneBatch),
		{wire.StreamReplay, "fetch.replay." + provider + ".>", queueDepth, queueOldest, provider, laneReplay},
		{wire.StreamDLQ, "fetch.dlq." + provider + ".>", dlqSize, dlqOldest, provider, ""},
		{wire.StreamReview, "fetch.review." + provider + ".>", reviewSize, reviewAge, provider, ""},
	}
}

func (q queue) tell(tell tell, l length, now time.Time) {
	labels := []string{q.provider}
	if q.lane != "" {
		labels = append(labels, q.lane)
	}
	age := 0.0
	if l.count > 0 {
		age = max(now.Sub(l.oldest), 0).Seconds()
	}
	tell(q.count, float64(l.count), labels...)
	tell(q.age, age, labels...)
}

// ask reads the queue's first message as a batch of one: the server adds how
// many more match, which it knows without listing them. (A list of subjects
// would grow with the queue.)
func (q queue) ask(ctx context.Context, nc *nats.Conn) (length, error) {
	request, err := json.Marshal(struct {
		Seq   uint64 `json:"seq"`
		Next  string `json:"next_by_subj"`
		Batch int    `json:"batch"`
	}{1, q.filter, 1})
	if err != nil {
		return length{}, fmt.Errorf("ask %s: %w", q.filter, err)
	}
	first, err := nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+q.stream, request)
	if err != nil {
		return length{}, fmt.Errorf("ask %s: %w", q.filter, err)
	}
	l := length{at: time.Now()}
	if !record.IsStored(first.Header) {
		if status := first.Header.Get("Status"); status != "404" {
			return length{}, fmt.Errorf("ask %s: the server says %s %s", q.filter, status, first.Header.Get("Description"))
		}
		return l, nil
	}
	behind, err := strconv.Atoi(record.Own(first.Header, "Nats-Num-Pending"))
	if err != nil {
		return length{}, fmt.Errorf("ask %s: how many more: %w", q.filter, err)
	}
	l.count = behind + 1
	if l.oldest, err = time.Parse(time.RFC3339Nano, record.Own(first.Header, "Nats-Time-Stamp")); err != nil {
		return length{}, fmt.Errorf("ask %s: since when: %w", q.filter, err)
	}
	return l, nil
}

const (
	// fewProviders are asked for one by one, mostSubjects listed to learn who has
	// something.
	fewProviders = 8
	mostSubjects = 2000
)

// holding are the providers that may have something in a stream, by what was
// just seen of it: most of many have nothing, and need not be asked for.
func (f *Fleet) holding(ctx context.Context, stream string, providers []string) map[string]bool {
	holding := map[string]bool{}
	s := f.streams[stream]
	seen := time.Since(s.at) < queuesLast
	if seen && s.messages == 0 {
		return holding
	}
	if seen && len(providers) > fewProviders && s.subjects <= mostSubjects {
		if subjects, err := subjectsOf(ctx, f.js, stream); err == nil {
			for subject := range subjects {
				if tokens := strings.SplitN(subject, ".", 4); len(tokens) == 4 {
					holding[tokens[2]] = true
				}
			}
			return holding
		}
	}
	for _, p := range providers {
		holding[p] = true
	}
	return holding
}

func subjectsOf(ctx context.Context, js jetstream.JetStream, name string) (map[string]uint64, error) {
	listed, err := wire.List(ctx, js.Conn(), name, ">")
	return listed.Subjects, err
}

// windowName is how a limit's window is called in labels: s, min, h, d, 12h,
// 30m, 1h40m. No two windows of different length have one name.
func windowName(w ledger.Window) string {
	_, unit, _ := strings.Cut(ledger.Limits{w}.String(), "/")
	if strings.HasSuffix(unit, "m0s") {
		unit = strings.TrimSuffix(unit, "0s")
	}
	if strings.HasSuffix(unit, "h0m") {
		unit = strings.TrimSuffix(unit, "0m")
	}
	return unit
}
