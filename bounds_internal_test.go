package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a claim may promise: a body of its agent's, and no more than its parts can
// hold.
func TestWhatAClaimMayPromise(t *testing.T) {
	const ours = "fetch.body.alice.digest"
	for name, c := range map[string]struct {
		claim Claim
		ok    bool
	}{
		"one part":            {Claim{Prefix: ours, Parts: 1, Bytes: 1}, true},
		"as much as fits":     {Claim{Prefix: ours, Parts: 2, Bytes: 2 * MaxInlineBody}, true},
		"a byte more":         {Claim{Prefix: ours, Parts: 2, Bytes: 2*MaxInlineBody + 1}, false},
		"nothing":             {Claim{Prefix: ours, Parts: 1, Bytes: 0}, false},
		"no parts":            {Claim{Prefix: ours, Parts: 0, Bytes: 1}, false},
		"less than no parts":  {Claim{Prefix: ours, Parts: -1, Bytes: 1}, false},
		"the most parts":      {Claim{Prefix: ours, Parts: mostParts, Bytes: 1}, true},
		"a part more":         {Claim{Prefix: ours, Parts: mostParts + 1, Bytes: 1}, false},
		"another agent's":     {Claim{Prefix: "fetch.body.bob.digest", Parts: 1, Bytes: 1}, false},
		"an agent's of alike": {Claim{Prefix: "fetch.body.alice2.digest", Parts: 1, Bytes: 1}, false},
		"no subject":          {Claim{Prefix: ours + ".>", Parts: 1, Bytes: 1}, false},
		"an answer's subject": {Claim{Prefix: "fetch.result.alice.digest", Parts: 1, Bytes: 1}, false},
	} {
		if err := c.claim.Check("alice"); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrBodyCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What ends a submit, and what is tried again.
func TestWhatIsARefusal(t *testing.T) {
	api := func(code int) error { return fmt.Errorf("said: %w", &jetstream.APIError{Code: code}) }
	for err, want := range map[error]bool{
		api(400): true, api(404): true, api(499): true, api(500): false, api(503): false,
		fmt.Errorf("%w: x", ErrQueueFull): true, fmt.Errorf("%w: x", ErrNotPermitted): true, fmt.Errorf("%w: x", ErrClosed): true,
		fmt.Errorf("x: %w", nats.ErrMaxPayload): true, nats.ErrNoResponders: false, context.DeadlineExceeded: false, nats.ErrTimeout: false,
	} {
		if got := refusal(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
	ended, end := context.WithCancelCause(t.Context())
	end(ErrNotPermitted)
	if err := because(ended, nats.ErrTimeout); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("what ended it was %v", err)
	}
	if err := because(t.Context(), nats.ErrConnectionClosed); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed connection is %v", err)
	}
	if err := because(t.Context(), nats.ErrTimeout); errors.Is(err, ErrClosed) || !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a time-out is %v", err)
	}
}

// A request leaves room for its headers: what is larger is refused before it is
// published.
func TestARequestLeavesRoomForItsHeaders(t *testing.T) {
	c := &Client{agent: "alice"}
	of := func(n int) (int, error) {
		r := Request{Provider: "fmp", Operation: "quote", ID: "q", Params: json.RawMessage(`{"a":"` + strings.Repeat("x", n) + `"}`)}
		m, err := c.encode(&r)
		if err != nil {
			return 0, err
		}
		return len(m.Data), nil
	}
	small, err := of(0)
	if err != nil {
		t.Fatal(err)
	}
	most := MaxRequestBytes - headroom - small
	if n, err := of(most); err != nil || n != MaxRequestBytes-headroom {
		t.Errorf("the largest: %d bytes, %v", n, err)
	}
	var wrong *RequestError
	if _, err := of(most + 1); !errors.As(err, &wrong) || wrong.Field != "params" {
		t.Errorf("a byte more: %v", err)
	}
}

// Looks at a request become more seldom, and never rare.
func TestHowOftenARequestIsLookedUp(t *testing.T) {
	before := time.Duration(0)
	for looks := range 2000 {
		wait := lookAfter(looks)
		if wait <= 0 || wait > longestLook || wait < before && looks > 0 {
			t.Fatalf("look %d after %v, the one before after %v", looks, wait, before)
		}
		before = wait
	}
}
