package operate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// An act is tried again while the server is away, for two minutes; what is
// refused is told at once, and whoever waits is told for how long, and that it is
// over.
func TestPatienceHasAnEnd(t *testing.T) {
	refused := &jetstream.APIError{Code: 400, ErrorCode: 10060, Description: "refused"}
	for name, c := range map[string]struct {
		err    error
		passes bool
	}{
		"a timeout":       {context.DeadlineExceeded, true},
		"nobody there":    {nats.ErrNoResponders, true},
		"no stream":       {jetstream.ErrNoStreamResponse, true},
		"reconnecting":    {nats.ErrReconnectBufExceeded, true},
		"no leader":       {&jetstream.APIError{Code: 503, ErrorCode: 10008, Description: "no leader"}, true},
		"a refusal":       {refused, false},
		"no right":        {nats.ErrPermissionViolation, false},
		"it is closed":    {nats.ErrConnectionClosed, false},
		"something else":  {errors.New("x"), false},
		"it does not end": {nil, true}, // a timeout, for ever
	} {
		synctest.Test(t, func(t *testing.T) {
			var told []time.Duration
			o := NewOperator(nil, nil, Signature{})
			o.Waits = func(d time.Duration) { told = append(told, d) }
			tries, began := 0, time.Now()
			err := o.patiently(t.Context(), func() error {
				if tries++; c.err == nil && time.Since(began) < 2*patience {
					return context.DeadlineExceeded
				}
				if tries > 6 || c.err == nil {
					return nil
				}
				return fmt.Errorf("wrapped: %w", c.err)
			})
			took := time.Since(began)
			switch {
			case c.err == nil:
				if err == nil || took < patience || took > patience+5*time.Second || len(told) < 10 || told[len(told)-1] != 0 {
					t.Errorf("%s: %v after %v, told %v", name, err, took, told)
				}
			case c.passes:
				if err != nil || tries != 7 || took > 20*time.Second || len(told) < 2 || told[0] < time.Second || told[len(told)-1] != 0 {
					t.Errorf("%s: %v after %d tries and %v, told %v", name, err, tries, took, told)
				}
			case !errors.Is(err, c.err) || tries != 1 || len(told) > 0:
				t.Errorf("%s: %v after %d tries, told %v", name, err, tries, told)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := NewOperator(nil, nil, Signature{}).patiently(ctx, func() error { return nats.ErrTimeout }); err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("who has no time: %v after %v", err, time.Since(began))
		}
	})
}
