package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
)

// Worker is a live worker: the value of worker.<name>.
type Worker struct {
	Name      string   `json:"name"`
	Version   string   `json:"version"`
	Providers []string `json:"providers"`

	// Keyless are the providers that it knows and has no key for: the variable
	// that would hold it, by provider.
	Keyless map[string]string `json:"keyless,omitempty"`
	// Limits are those of its own configuration, by provider.
	Limits map[string]string `json:"limits,omitempty"`
	// Bytes are the months' budgets of its own configuration, on the wire, by
	// provider; those without one are left out.
	Bytes map[string]int64 `json:"bytes,omitempty"`
	// Unable is why it cannot call some of them, by provider.
	Unable map[string]string `json:"unable,omitempty"`
	// Recent are the final answers that it gave in the last quarter of an hour,
	// by provider; those without one are left out.
	Recent map[string]Ends `json:"recent,omitzero"`
	// Look brings what changes up to date before each beat; nil: nothing does.
	Look func(*Worker) `json:"-"`
}

// Ends are final answers: with what was asked for, and without.
type Ends struct {
	Good   int64 `json:"good"`
	Failed int64 `json:"failed"`
}

const (
	presenceTTL  = 15 * time.Second
	presenceEach = 5 * time.Second
)

// Beat says once that a worker lives; it is believed for 15 s.
func Beat(ctx context.Context, js jetstream.JetStream, w Worker) error {
	value, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("presence of %s: %w", w.Name, err)
	}
	// The client has no put with a TTL that may replace: a plain publish does.
	msg := nats.NewMsg("$KV." + store.Bucket + "." + store.WorkerKey(w.Name))
	msg.Data = value
	if _, err := js.PublishMsg(ctx, msg, jetstream.WithMsgTTL(presenceTTL)); err != nil {
		return fmt.Errorf("presence of %s: %w", w.Name, err)
	}
	return nil
}

// Lives reports whether a worker has said lately that it lives.
func Lives(ctx context.Context, kv jetstream.KeyValue, name string) (bool, error) {
	entry, err := kv.Get(ctx, store.WorkerKey(name))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("presence of %s: %w", name, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("presence of %s: %w", name, err)
	}
	bucket, ok := status.(*jetstream.KeyValueBucketStatus)
	// A key that never expired is no worker; see beat.lives.
	return !ok || bucket.StreamInfo().TimeStamp.Sub(entry.Created()) < presenceTTL+time.Second, nil
}

// Present keeps a worker's key alive until ctx ends, then takes it away, so
// that nobody waits for one that has gone. onError is told of each beat that
// failed; the next one tries again.
func Present(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, w Worker, onError func(error)) {
	for {
		if w.Look != nil {
			w.Look(&w)
		}
		beat, cancel := context.WithTimeout(ctx, presenceEach)
		if err := Beat(beat, js, w); err != nil && ctx.Err() == nil && onError != nil {
			onError(err)
		}
		cancel()
		if wait.For(ctx, presenceEach) != nil {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), presenceEach)
	defer cancel()
	err := kv.Purge(last, store.WorkerKey(w.Name), jetstream.PurgeTTL(time.Minute))
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) && onError != nil {
		onError(fmt.Errorf("presence of %s: %w", w.Name, err))
	}
}
