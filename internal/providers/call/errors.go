package call

import (
	"errors"

	"fetchworker/internal/providers/classify"
)

// ErrTooLarge is in Result.Err when a body is longer than MaxBody.
var ErrTooLarge = classify.ErrTooLarge

var (
	// ErrRetried is in Result.Err when a reused connection broke after it had
	// taken the request. net/http would ask again; the provider might count a
	// second call on one permit, so the attempt ends as transient instead.
	ErrRetried = errors.New("the connection broke after it had taken the request")

	// errEncoding: the bytes all came, but are not what their
	// Content-Encoding says, or it is one that we did not ask for.
	errEncoding = errors.New("bad content encoding")
)
