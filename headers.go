package fetchworker

import "time"

// Headers of answers. Durations are milliseconds or seconds as the name says,
// times RFC 3339.
const (
	headerRequestID   = "Fetch-Request-Id"
	headerStatus      = "Fetch-Status"
	headerFinal       = "Fetch-Final"
	headerReview      = "Fetch-Review"
	headerGeneration  = "Fetch-Generation"
	headerSource      = "Fetch-Source"
	headerHTTPStatus  = "Fetch-Http-Status"
	headerCalls       = "Fetch-Calls"
	headerFailures    = "Fetch-Failures"
	headerFetchedAt   = "Fetch-Fetched-At"
	headerAge         = "Fetch-Age-Seconds"
	headerLatency     = "Fetch-Latency-Ms"
	headerRedacted    = "Fetch-Redacted"
	headerNext        = "Fetch-Next"
	headerNextLoop    = "Fetch-Next-Loop"
	headerBodyPrefix  = "Fetch-Body-Prefix"
	headerBodyParts   = "Fetch-Body-Parts"
	headerBodyBytes   = "Fetch-Body-Bytes"
	headerSHA256      = "Fetch-Sha256"
	headerDigest      = "Fetch-Request-Digest"
	headerReason      = "Fetch-Reason"
	headerRetryAt     = "Fetch-Retry-At"
	headerContentType = "Content-Type"

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
