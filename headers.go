package fetchworker

import "time"

// Headers of answers, dead letters, replayed letters and review items.
// Durations are milliseconds or seconds as the name says, times RFC 3339.
const (
	HeaderRequestID   = "Fetch-Request-Id"
	HeaderStatus      = "Fetch-Status"
	HeaderFinal       = "Fetch-Final"
	HeaderReview      = "Fetch-Review"
	HeaderGeneration  = "Fetch-Generation"
	HeaderSource      = "Fetch-Source"
	HeaderHTTPStatus  = "Fetch-Http-Status"
	HeaderCalls       = "Fetch-Calls"
	HeaderFailures    = "Fetch-Failures"
	HeaderFetchedAt   = "Fetch-Fetched-At"
	HeaderAge         = "Fetch-Age-Seconds"
	HeaderLatency     = "Fetch-Latency-Ms"
	HeaderRedacted    = "Fetch-Redacted"
	HeaderNext        = "Fetch-Next"
	HeaderNextLoop    = "Fetch-Next-Loop"
	HeaderBodyPrefix  = "Fetch-Body-Prefix"
	HeaderBodyParts   = "Fetch-Body-Parts"
	HeaderBodyBytes   = "Fetch-Body-Bytes"
	HeaderSHA256      = "Fetch-Sha256"
	HeaderDigest      = "Fetch-Request-Digest"
	HeaderReason      = "Fetch-Reason"
	HeaderRetryAt     = "Fetch-Retry-At"
	HeaderAllowed     = "Fetch-Failures-Allowed"
	HeaderMaxLife     = "Fetch-Max-Life"
	HeaderErrorClass  = "Fetch-Error-Class"
	HeaderError       = "Fetch-Error"
	HeaderErrorCode   = "Fetch-Error-Code"
	HeaderRequestedAt = "Fetch-Requested-At"
	HeaderDeadline    = "Fetch-Deadline"
	HeaderFailedAt    = "Fetch-Failed-At"
	HeaderFirstFailed = "Fetch-First-Failed-At"
	HeaderNotBefore   = "Fetch-Not-Before"
	HeaderWorker      = "Fetch-Worker"
	HeaderHistory     = "Fetch-History"
	HeaderLane        = "Fetch-Lane"

	HeaderContentType = "Content-Type"
	HeaderTraceparent = "traceparent"
	HeaderTracestate  = "tracestate"

	headerSpecVersion = "ce-specversion"
	headerEventID     = "ce-id"
	headerEventType   = "ce-type"
	headerEventSource = "ce-source"
	headerSubject     = "ce-subject"
	headerEventTime   = "ce-time"
)

// ProblemType is the media type of the body of a failed or waiting answer
// (RFC 9457).
const ProblemType = "application/problem+json"

// MaxInlineBody is the largest body in bytes that travels in the answer
// itself; a larger one is stored in parts of this size behind a claim check.
const MaxInlineBody = 512 << 10

// MaxRequestBytes is the largest request in bytes, headers included, that the
// queue takes.
const MaxRequestBytes = 64 << 10

// RepeatWithin is how soon a publish that is repeated under its Nats-Msg-Id is
// dropped as a duplicate: long enough for one whose receipt got lost. Later it is
// a request under an id that was used before, which has one answer all the same.
const RepeatWithin = 5 * time.Second
