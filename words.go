package fetchworker

// Lane is the urgency of a request. While all lanes have work, interactive,
// replayed and batch requests get permits in the ratio 6:3:1.
type Lane string

// The lanes an agent can publish in.
const (
	LaneInteractive Lane = "interactive"
	LaneBatch       Lane = "batch"
)

// Valid reports whether the lane is one an agent can publish in.
func (l Lane) Valid() bool { return l == LaneInteractive || l == LaneBatch }

// Status is the outcome an answer tells, the Fetch-Status header.
type Status string

// The statuses. Waiting and a provisional stale answer are followed by
// another answer under the same subject; Fetch-Final tells.
const (
	StatusOK      Status = "ok"
	StatusStale   Status = "stale"
	StatusWaiting Status = "waiting"
	StatusFailed  Status = "failed"
)

// Source says whether an answer's body came from the provider or a cache.
type Source string

// The sources of a body.
const (
	SourceOrigin Source = "origin"
	SourceCache  Source = "cache"
)

// Code names why an answer failed: problem type "urn:fetch:error:<code>".
type Code string

// Every failure code.
const (
	CodeInvalidRequest        Code = "invalid_request"         // the request cannot be understood or breaks a rule of the wire
	CodeUnknownProvider       Code = "unknown_provider"        // nobody has ever served this provider
	CodeUnknownOperation      Code = "unknown_operation"       // the provider has no such operation
	CodeProviderNotConfigured Code = "provider_not_configured" // the provider is known, but no key for it is set
	CodeRightsViolation       Code = "rights_violation"        // the agent's rights or the licence do not cover the use
	CodeDeadlineExceeded      Code = "deadline_exceeded"       // the request's deadline passed
	CodeBudgetExhausted       Code = "budget_exhausted"        // the month's bytes are used up
	CodeNotFound              Code = "not_found"               // the provider says that this does not exist
	CodeRejected              Code = "rejected"                // the provider refuses the request
	CodeNotEntitled           Code = "not_entitled"            // the provider's plan does not include this
	CodeRetriesExhausted      Code = "retries_exhausted"       // every retry failed, or the maximum life passed
	CodePoison                Code = "poison"                  // the request kills the workers that run it
	CodeResponseTooLarge      Code = "response_too_large"      // the body is beyond the limit
	CodeDiscarded             Code = "discarded"               // a person discarded it in review
	CodeCancelled             Code = "cancelled"               // the agent or an operator cancelled it
	CodeBacklogFull           Code = "backlog_full"            // the agent, or the provider, has too much waiting already
)

// Reason names why a request waits: problem type "urn:fetch:waiting:<reason>".
type Reason string

// Every waiting reason.
const (
	ReasonCircuitOpen  Reason = "circuit_open" // the provider is failing; it is probed until it recovers
	ReasonPaused       Reason = "paused"       // an operator paused the provider
	ReasonThrottled    Reason = "throttled"    // the provider asked for a hold
	ReasonQuota        Reason = "quota"        // no permit for more than 90 s: a long window is used up
	ReasonUnauthorized Reason = "unauthorized" // the provider refuses the key
	ReasonNoWorker     Reason = "no_worker"    // no live worker serves the provider
	ReasonRetry        Reason = "retry"        // the last call failed, and is made again; told with a stale body only
	ReasonPending      Reason = "pending"      // the provider is still computing the answer; it is asked again
)
