package operate

import (
	"bytes"
	"errors"
	"fmt"

	"fetchworker"
	"fetchworker/internal/browse"
)

// ErrUnchanged says that an edit has changed nothing.
var ErrUnchanged = errors.New("the request was not changed, so nothing was done")

// Edited is a request that a person has edited, as it may be requeued: one that
// the wire accepts, under the id that it had.
func Edited(f browse.Found, body []byte) ([]byte, error) {
	body = bytes.TrimSpace(body)
	if bytes.Equal(body, bytes.TrimSpace(f.Body)) {
		return nil, ErrUnchanged
	}
	if len(body) > fetchworker.MaxRequestBytes { // which the stream of requests looks at, and the way back does not
		return nil, fmt.Errorf("the edited request has %d bytes, and may have %d", len(body), fetchworker.MaxRequestBytes)
	}
	r, err := fetchworker.DecodeRequest(body)
	if err != nil {
		return nil, fmt.Errorf("the edited request is not valid: %w", err)
	}
	if r.ID != "" && r.ID != f.ID {
		return nil, fmt.Errorf("the id cannot be edited: it is %s", f.ID)
	}
	r.Provider, r.Operation, r.Agent, r.Lane = f.Provider, f.Operation, f.Agent, f.Lane
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("the edited request is not valid: %w", err)
	}
	return body, nil
}
