// Package wire is what of the wire format only the service sees: where letters,
// review items, audit, counters and bodies are stored, how a stored subject is
// read, and how an attempt is classified. What an agent sees is in the root package.
package wire

import (
	"strings"
	"time"

	"fetchworker"
)

// The streams and buckets that agents have nothing to do with.
const (
	StreamReplay    = "FETCH_REPLAY"
	StreamDLQ       = "FETCH_DLQ"
	StreamReview    = "FETCH_REVIEW"
	StreamAudit     = "FETCH_AUDIT"
	StreamBudget    = "FETCH_BUDGET"
	StreamUsage     = "FETCH_USAGE"
	BucketProviders = "fetch_providers"
	BucketCache     = "fetch_cache"
)

// Shards is the number of shards that agents are spread over, by the server:
// the stored subject of a request carries partition(16, agent).
const Shards = 16

// PutSubject is where a worker publishes an answer; the stream stores and
// republishes it under ResultSubject.
func PutSubject(i fetchworker.Identity) string { return "fetch.put." + i.String() }

// DLQSubject is where the dead letter of a request is stored.
func DLQSubject(lane fetchworker.Lane, i fetchworker.Identity) string {
	return "fetch.dlq." + i.Provider + "." + string(lane) + "." + i.Operation + "." + i.Agent + "." + i.ID
}

// ReplaySubject is where a letter that goes back to work is stored.
func ReplaySubject(lane fetchworker.Lane, i fetchworker.Identity) string {
	return "fetch.replay." + i.Provider + "." + string(lane) + "." + i.Operation + "." + i.Agent + "." + i.ID
}

// ReviewSubject is where a request waits for a person.
func ReviewSubject(i fetchworker.Identity) string { return "fetch.review." + i.String() }

// EventSubject is where events of a kind about a provider are published.
func EventSubject(kind, provider string) string { return "fetch.event." + kind + "." + provider }

// AuditSubject is where an act of a person on a provider's work is recorded.
func AuditSubject(action, provider string) string { return "fetch.audit." + action + "." + provider }

// BytesSubject is the counter of a provider's bytes in the UTC month of t.
func BytesSubject(provider string, t time.Time) string {
	return "fetch.budget." + provider + ".bytes." + t.UTC().Format("2006-01")
}

// UsageSubject is the counter of what an agent had of a provider on the UTC day
// of t: calls, bytes, ok, cached, stale or failed.
func UsageSubject(provider, agent string, t time.Time, what string) string {
	return "fetch.usage." + provider + "." + agent + "." + t.UTC().Format(time.DateOnly) + "." + what
}

// CauseSubject is the counter of a provider's calls of an operation that failed
// for one cause on the UTC day of t.
func CauseSubject(provider, operation string, t time.Time, cause string) string {
	return "fetch.cause." + provider + "." + operation + "." + t.UTC().Format(time.DateOnly) + "." + cause
}

// Queued is where it is told that something was stored under a subject of the
// requests or the replays: fetch.queued.request.<provider>.<lane>.<shard>.>,
// fetch.queued.replay.<provider>.>. Only workers hear it.
func Queued(stored string) string { return "fetch.queued." + strings.TrimPrefix(stored, "fetch.") }

// BodyReuse is how long after it was stored a large body may be named by new
// answers without being stored again.
const BodyReuse = 12 * time.Hour

// BodyPrefix is the claim check of a large body of an agent's, with its SHA-256
// in hex; its parts are stored under BodyPrefix + "." + part, from 1.
func BodyPrefix(agent, digest string) string { return "fetch.body." + agent + "." + digest }
