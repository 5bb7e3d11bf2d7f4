package fetchworker

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The streams that make up the service.
const (
	StreamRequests = "FETCH_REQUESTS"
	StreamReplay   = "FETCH_REPLAY"
	StreamResults  = "FETCH_RESULTS"
	StreamDLQ      = "FETCH_DLQ"
	StreamReview   = "FETCH_REVIEW"
	StreamEvents   = "FETCH_EVENTS"
	StreamAudit    = "FETCH_AUDIT"
	StreamBudget   = "FETCH_BUDGET"
	StreamBodies   = "FETCH_BODIES"
	StreamUsage    = "FETCH_USAGE"

	BucketProviders = "fetch_providers"
	BucketCache     = "fetch_cache"
)

// Shards is the number of shards that agents are spread over, by the server:
// the stored subject of a request carries partition(16, agent).
const Shards = 16

// RequestSubject is where an agent publishes a request.
func RequestSubject(provider string, lane Lane, operation, agent string) string {
	return "fetch.request." + provider + "." + string(lane) + "." + operation + "." + agent
}

// PutSubject is where a worker publishes an answer; the stream stores and
// republishes it under ResultSubject.
func PutSubject(i Identity) string { return "fetch.put." + i.String() }

// ResultSubject is where the answer of a request is stored and seen live.
func ResultSubject(i Identity) string { return "fetch.result." + i.String() }

// DLQSubject is where the dead letter of a request is stored.
func DLQSubject(lane Lane, i Identity) string {
	return "fetch.dlq." + i.Provider + "." + string(lane) + "." + i.Operation + "." + i.Agent + "." + i.ID
}

// ReplaySubject is where a letter that goes back to work is stored.
func ReplaySubject(lane Lane, i Identity) string {
	return "fetch.replay." + i.Provider + "." + string(lane) + "." + i.Operation + "." + i.Agent + "." + i.ID
}

// CancelSubject is where an agent's orders to cancel are taken, by request.
func CancelSubject(provider, agent string) string { return "fetch.cancel." + provider + "." + agent }

// ReviewSubject is where a request waits for a person.
func ReviewSubject(i Identity) string { return "fetch.review." + i.String() }

// Queued is where it is told that something was stored under a subject of the
// requests or the replays: fetch.queued.request.<provider>.<lane>.<shard>.>,
// fetch.queued.replay.<provider>.>. Only workers hear it.
func Queued(stored string) string { return "fetch.queued." + strings.TrimPrefix(stored, "fetch.") }

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

// BodyReuse is how long after it was stored a large body may be named by new
// answers without being stored again.
const BodyReuse = 12 * time.Hour

// BodyPrefix is the claim check of a large body of an agent's, with its SHA-256
// in hex; its parts are stored under BodyPrefix + "." + part, from 1.
func BodyPrefix(agent, digest string) string { return "fetch.body." + agent + "." + digest }

// ReplyPrefix is what every reply subject of an agent begins with.
func ReplyPrefix(agent string) string { return "fetch.reply." + agent + "." }

// Address is what the stored subject of a request, a letter, a replayed
// letter or a review item says of it. The shard is -1 and the id empty where
// the subject does not carry one.
type Address struct {
	Identity
	Lane  Lane
	Shard int
}

// longestSubject is far more than any that keeps to the rules. What is longer
// could not be answered: the subject of its answer might not fit into what a
// NATS server takes. A request's own leaves room for the id that its answer
// and its dead letter add.
const (
	longestSubject = 512
	longestRequest = longestSubject - 80
)

// longestAddress is the most tokens that a subject of ours has.
const longestAddress = 7

// errSubject says that a subject is none that could be answered, or shown.
var errSubject = errors.New("the subject is none of ours")

// ParseSubject reads the stored subject of a request, a letter, a replayed
// letter, a review item or an answer. It is the one judge of names from
// outside: each token is printable ASCII, so that it can be a filter, a metric's
// label and a line on a terminal, and the whole is short enough to be
// answered. Whether a name is a valid one is for ValidToken.
func ParseSubject(subject string) (Address, error) {
	var room [longestAddress + 1]string // for the tokens, on the stack
	t := room[:0]
	for token := range strings.SplitSeq(subject, ".") {
		if t = append(t, token); len(t) > longestAddress {
			break // none of ours
		}
	}
	longest := longestSubject
	if len(t) > 1 && t[1] == "request" {
		longest = longestRequest
	}
	if len(t) < 2 || t[0] != "fetch" || len(subject) > longest || !printable(subject) {
		return Address{}, fmt.Errorf("subject %.100q: %w", subject, errSubject)
	}
	switch {
	case t[1] == "request" && len(t) == 7:
		shard, err := strconv.Atoi(t[4])
		if err != nil {
			return Address{}, fmt.Errorf("subject %q: shard: %w", subject, err)
		}
		return Address{Identity{t[2], t[5], t[6], ""}, Lane(t[3]), shard}, nil
	case (t[1] == "dlq" || t[1] == "replay") && len(t) == 7:
		return Address{Identity{t[2], t[4], t[5], t[6]}, Lane(t[3]), -1}, nil
	case (t[1] == "review" || t[1] == "result" || t[1] == "put") && len(t) == 6:
		return Address{Identity{t[2], t[3], t[4], t[5]}, "", -1}, nil
	}
	return Address{}, fmt.Errorf("subject %.100q: %w", subject, errSubject)
}

// printable reports whether all of a subject is ASCII that can be seen.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
