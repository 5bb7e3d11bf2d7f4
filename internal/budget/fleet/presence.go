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
	// Quotas are those that its providers share with others, by provider.
	Quotas map[string]string `json:"quotas,omitempty"`
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
	presenceIdle = 10 * time.Second        // while nothing is in hand
	presenceLook = time.Second             // for whether something is, and after a failure
	presenceTold = 2500 * time.Millisecond // after a beat it should have been told
)

// Beat says once that a worker lives; it is believed for 15 s.
func Beat(ctx context.Context, js jetstream.JetStream, w Worker) error {
	msg, err := message(w)
	if err != nil {
		return err
	}
	if _, err := js.PublishMsg(ctx, msg, jetstream.WithMsgTTL(presenceTTL)); err != nil {
		return fmt.Errorf("presence of %s: %w", w.Name, err)
	}
	return nil
}

// message is a beat: the client has no put with a TTL that may replace, a plain
// publish does.
func message(w Worker) (*nats.Msg, error) {
	value, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("presence of %s: %w", w.Name, err)
	}
	msg := nats.NewMsg("$KV." + store.Bucket + "." + store.WorkerKey(w.Name))
	msg.Data = value
	return msg, nil
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

// Presence is how a worker says for as long as it runs that it lives.
type Presence struct {
	Worker
	// Mirror is the process's copy of the bucket, which follows the worker's own
	// key: that it is told of a beat is the server's word, and shows that the
	// watch is alive. Without one each beat is acknowledged.
	Mirror *store.Mirror
	// Busy reports that the worker has something in hand; nil: it always may.
	// Nobody but such a one has to be believed when it is silent for a while, so
	// the others say half as often that they live.
	Busy func() bool
}

// Living are the workers that have said lately that they live.
func Living(ctx context.Context, kv jetstream.KeyValue) ([]Worker, error) {
	watch, err := kv.Watch(ctx, store.WorkerKey("*"), jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("who lives: %w", err)
	}
	defer func() {
		_ = watch.Stop() // it fails only if the connection is gone, and the watch with it
		for range watch.Updates() {
			// The client's callback may be about to send; let it end.
		}
	}()
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("who lives: %w", err)
	}
	now := time.Now()
	if bucket, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		now = bucket.StreamInfo().TimeStamp
	}
	var living []Worker
	for {
		select {
		case entry, ok := <-watch.Updates():
			if !ok {
				return nil, fmt.Errorf("who lives: %w", nats.ErrConnectionClosed)
			}
			if entry == nil {
				return living, nil
			}
			var w Worker
			// A key that never expired is no worker; see beat.lives.
			if now.Sub(entry.Created()) < presenceTTL+time.Second && json.Unmarshal(entry.Value(), &w) == nil {
				living = append(living, w)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("who lives: %w", context.Cause(ctx))
		}
	}
}

// Present keeps a worker's key alive until ctx ends, then takes it away, so
// that nobody waits for one that has gone. onError is told of each beat that
// failed; the next one tries again.
func Present(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, w Worker, onError func(error)) {
	Presence{Worker: w}.Run(ctx, js, kv, onError)
}

// Run is Present.
func (p Presence) Run(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue, onError func(error)) {
	failed := func(err error) {
		if err != nil && ctx.Err() == nil && onError != nil {
			onError(err)
		}
	}
	told := make(chan struct{}, 1)
	if p.Mirror != nil {
		leave := p.Mirror.Follow(&store.Follower{Keys: []string{store.WorkerKey(p.Name)}, See: func(e store.Entry) {
			if e.Value != nil {
				wait.Signal(told)
			}
		}, Lost: func() {}})
		defer leave()
	}
	for untold := 0; ctx.Err() == nil; {
		began := time.Now()
		if p.Look != nil {
			p.Look(&p.Worker)
		}
		err := p.beat(ctx, js, told)
		failed(err)
		if untold++; !errors.Is(err, errUntold) {
			untold = 0
		} else if untold > 1 {
			p.Mirror.Reopen() // one may not have been stored
		}
		p.pause(ctx, began, err != nil)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), presenceEach)
	defer cancel()
	err := kv.Purge(last, store.WorkerKey(p.Name), jetstream.PurgeTTL(time.Minute))
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) && onError != nil {
		onError(fmt.Errorf("presence of %s: %w", p.Name, err))
	}
}

// pause waits until the next beat is due.
func (p Presence) pause(ctx context.Context, began time.Time, again bool) {
	if p.Mirror == nil || p.Busy == nil {
		_ = wait.For(ctx, presenceEach)
		return
	}
	for wait.For(ctx, presenceLook) == nil {
		if since := time.Since(began); again || since >= presenceIdle || since >= presenceEach && p.Busy() {
			return
		}
	}
}

// beat says once that the worker lives, and waits for the server's word.
func (p Presence) beat(ctx context.Context, js jetstream.JetStream, told <-chan struct{}) error {
	if p.Mirror == nil {
		ctx, cancel := context.WithTimeout(ctx, presenceEach)
		defer cancel()
		return Beat(ctx, js, p.Worker)
	}
	select {
	case <-told: // of an earlier one
	default:
	}
	msg, err := message(p.Worker)
	if err != nil {
		return err
	}
	msg.Header.Set(jetstream.MsgTTLHeader, presenceTTL.String())
	if !js.Conn().IsConnected() {
		return fmt.Errorf("presence of %s: %w", p.Name, nats.ErrDisconnected)
	}
	if err := js.Conn().PublishMsg(msg); err != nil {
		return fmt.Errorf("presence of %s: %w", p.Name, err)
	}
	timer := time.NewTimer(presenceTold)
	defer timer.Stop()
	select {
	case <-told:
		return nil
	case <-ctx.Done():
		return nil
	case <-timer.C:
		return fmt.Errorf("presence of %s: %w", p.Name, errUntold)
	}
}

var errUntold = errors.New("the server has not told of it")
