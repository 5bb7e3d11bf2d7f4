// Package broker is the JetStream underneath: it connects to a NATS server
// or embeds one, and keeps the topology that everything else stands on,
// every stream, bucket and consumer, as Go values. It only ever creates or
// updates; what cannot be applied is an error, never a silent delete.
package broker

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// Options are what of the topology an operator decides. What is undecided
// (zero, not there) gets the standard where a stream is made, and is left as it
// is where one stands.
type Options struct {
	Replicas  int                      // of every stream: 1, or 3 in a cluster
	ResultAge time.Duration            // how long answers and large bodies are kept
	Ages      map[string]time.Duration // how long another stream keeps what it holds
	Bytes     map[string]int64         // how much a stream may hold; -1 is any amount

	AgentBacklog int // how many requests one agent may have waiting

	MaxLife    time.Duration // how long a request may live: its answer must not go before it
	AcceptLoss bool          // do also what loses messages or copies
	Return     bool          // work where the streams were moved away from
}

// Revision counts what changes in the topology. A stream carries that of the
// version that made it, so that an older one leaves it as it is.
const Revision = 5

const revisionKey = "fetchworker.topology"

// StandardResultAge is how long answers are kept unless an operator decides.
const StandardResultAge = 7 * 24 * time.Hour

// StandardAgentBacklog is how many requests one agent may have waiting unless
// an operator decides.
const StandardAgentBacklog = 20_000

// CacheAge is how long a cached body is kept at the most: longer than the
// longest stale age of any operation is of no use.
const CacheAge = 14 * 24 * time.Hour

// UsageAge is how long a day's counters are kept: a year can be compared with
// the one before, as far as it has come.
const UsageAge = 400 * 24 * time.Hour

const gib = 1 << 30

// Streams is the whole topology, buckets included.
func Streams(o Options) []jetstream.StreamConfig {
	base := func(name, description string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Description: description, Subjects: subjects,
			Storage: jetstream.FileStorage, Replicas: cmp.Or(o.Replicas, 1),
			Metadata:  map[string]string{revisionKey: strconv.Itoa(Revision)},
			Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1,
			// A thousand is the server's default, and 30 providers would pass it.
			MaxConsumers: 10_000,
			Duplicates:   2 * time.Minute,
			AllowDirect:  true,
		}
	}

	requests := base(fetchworker.StreamRequests, "Requests waiting for a worker", "fetch.request.*.*.*.*")
	requests.Retention = jetstream.WorkQueuePolicy
	requests.Discard = jetstream.DiscardNew
	requests.MaxMsgSize = fetchworker.MaxRequestBytes
	requests.MaxBytes = 2 * gib
	// The server keeps every id of the window in memory, and an agent may send
	// 60 KB of one.
	requests.Duplicates = fetchworker.RepeatWithin
	// A first fence: no more on one subject than an agent may have waiting on
	// all. The sweep sees to the whole.
	requests.MaxMsgsPerSubject = int64(cmp.Or(o.AgentBacklog, StandardAgentBacklog))
	requests.DiscardNewPerSubject = true
	// The shard, by agent, is what keeps one agent's backlog from another's turn.
	requests.SubjectTransform = &jetstream.SubjectTransformConfig{
		Source:      "fetch.request.*.*.*.*",
		Destination: "fetch.request.{{wildcard(1)}}.{{wildcard(2)}}.{{partition(16,4)}}.{{wildcard(3)}}.{{wildcard(4)}}",
	}

	// What is stored is told, without its body: so workers hear of what comes for
	// shards at rest. A subscription to the requests themselves would also hide
	// from agents that no stream takes them.
	told := func(c *jetstream.StreamConfig, source string) {
		c.RePublish = &jetstream.RePublish{Source: source, Destination: wire.Queued(source), HeadersOnly: true}
	}
	told(&requests, "fetch.request.>")

	replay := base(wire.StreamReplay, "Letters sent back to work", "fetch.replay.*.*.*.*.*")
	replay.Retention = jetstream.WorkQueuePolicy
	replay.MaxMsgsPerSubject = 1
	replay.Discard = jetstream.DiscardNew // should an operator bound it: work is held back, never dropped
	told(&replay, "fetch.replay.>")

	results := base(fetchworker.StreamResults, "The latest answer of each request", "fetch.put.*.*.*.*")
	results.MaxMsgsPerSubject = 1
	results.Discard = jetstream.DiscardNew // a full store holds work back; it never drops an answer
	results.MaxBytes = 4 * gib
	results.MaxAge = cmp.Or(o.ResultAge, StandardResultAge)
	// What cost no call is kept for an hour only. No marker is left behind: it
	// would be an answer.
	results.AllowMsgTTL = true
	results.SubjectTransform = &jetstream.SubjectTransformConfig{
		Source:      "fetch.put.*.*.*.*",
		Destination: "fetch.result.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}",
	}
	// What is stored, and only that, is seen live, under the stored name.
	results.RePublish = &jetstream.RePublish{Source: "fetch.result.>", Destination: "fetch.result.>"}

	dlq := base(wire.StreamDLQ, "Failures waiting for their retry, and parked requests", "fetch.dlq.*.*.*.*.*")
	dlq.Retention = jetstream.WorkQueuePolicy
	dlq.MaxMsgsPerSubject = 1
	dlq.Discard = jetstream.DiscardNew

	review := base(wire.StreamReview, "What waits for a person's decision", "fetch.review.*.*.*.*")
	review.MaxMsgsPerSubject = 1
	review.Discard = jetstream.DiscardNew

	events := base(fetchworker.StreamEvents, "Circuit, budget, throttle, review and control events", "fetch.event.*.*")
	events.MaxAge = 7 * 24 * time.Hour

	audit := base(wire.StreamAudit, "Who did what to which message, when and why", "fetch.audit.*.*")

	budget := base(wire.StreamBudget, "Bytes on the wire by provider and UTC month", "fetch.budget.*.bytes.*")
	budget.MaxMsgsPerSubject = 1
	budget.AllowMsgCounter = true

	usage := base(wire.StreamUsage, "What each agent had of each provider, and what failed, by UTC day", "fetch.usage.*.*.*.*", "fetch.cause.*.*.*.*")
	usage.MaxMsgsPerSubject = 1
	usage.AllowMsgCounter = true
	usage.MaxAge = UsageAge

	// By agent and content; the second form is that of earlier workers.
	bodies := base(fetchworker.StreamBodies, "Large bodies in parts", "fetch.body.*.*.*", "fetch.body.*.*.*.*")
	bodies.MaxMsgsPerSubject = 1
	bodies.Discard = jetstream.DiscardNew
	bodies.MaxBytes = 4 * gib
	// A body that lies there is named again for BodyReuse, by answers that then
	// live for their whole age: its parts outlive all of them.
	bodies.MaxAge = cmp.Or(o.ResultAge, StandardResultAge) + 2*wire.BodyReuse

	bucket := func(name, description string) jetstream.StreamConfig {
		c := base("KV_"+name, description, "$KV."+name+".>")
		c.MaxMsgsPerSubject = 1
		c.MaxConsumers = -1
		c.AllowRollup = true
		c.DenyDelete = true
		c.AllowMsgTTL = true
		c.SubjectDeleteMarkerTTL = 5 * time.Minute
		return c
	}
	providers := bucket(wire.BucketProviders, "Shared limit state: permits, circuits, control, live workers")
	providers.Discard = jetstream.DiscardNew
	cache := bucket(wire.BucketCache, "Bodies kept for fresh and stale answers")
	// A full cache forgets its oldest bodies; a bucket made by the client
	// library would refuse new ones instead.
	cache.MaxBytes = 1 * gib
	cache.MaxAge = CacheAge

	streams := []jetstream.StreamConfig{requests, replay, results, dlq, review, events, audit, budget, usage, bodies, providers, cache}
	for i := range streams {
		if age, decided := o.Ages[streams[i].Name]; decided {
			streams[i].MaxAge = age
		}
		if n, decided := o.Bytes[streams[i].Name]; decided {
			streams[i].MaxBytes = n
		}
	}
	return streams
}

// StreamNames are all streams by the name that an operator gives them:
// results is FETCH_RESULTS, cache is KV_fetch_cache.
func StreamNames() map[string]string {
	names := map[string]string{}
	for _, config := range Streams(Options{}) {
		short := strings.ToLower(config.Name)
		for _, prefix := range []string{"kv_", "fetch_"} {
			short = strings.TrimPrefix(short, prefix)
		}
		names[short] = config.Name
	}
	return names
}
