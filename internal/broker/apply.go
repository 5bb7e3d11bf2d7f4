package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Apply brings every stream and bucket to its wanted form: looked up first,
// so that credentials without the right to create are enough where all is in
// place; then created, or updated where it differs. A difference that the
// server refuses is an error that names the stream, the field and both
// values. Nothing is ever deleted.
func Apply(ctx context.Context, js jetstream.JetStream, want []jetstream.StreamConfig) error {
	var failed []error
	for _, config := range want {
		if err := applyStream(ctx, js, config); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func applyStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for range 3 { // another process may be applying the same
		stream, err := js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = refusable(ctx, js, func(ctx context.Context) error {
				_, err := js.CreateStream(ctx, want)
				return err
			})
			switch {
			case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
				continue
			case denied(err):
				return fmt.Errorf("stream %s is missing, and these credentials may not create it: %w", want.Name, err)
			case err != nil:
				return fmt.Errorf("create stream %s: %w", want.Name, err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", want.Name, err)
		}
		have := stream.CachedInfo().Config
		differences := Differences(have, want)
		if len(differences) == 0 {
			return nil
		}
		err = refusable(ctx, js, func(ctx context.Context) error {
			_, err := js.UpdateStream(ctx, want)
			return err
		})
		if err == nil {
			return nil
		}
		return fmt.Errorf("stream %s: %s: cannot be applied: %w", want.Name, strings.Join(differences, "; "), err)
	}
	return fmt.Errorf("stream %s: created and deleted by others meanwhile", want.Name)
}

// refusable makes a request that the credentials may not allow. NATS reports
// a refused permission beside the request, which itself would only time out:
// so it is looked for, and ends the request.
func refusable(ctx context.Context, js jetstream.JetStream, request func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	before := js.Conn().LastError()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				// Another error value than before is another violation.
				if now := js.Conn().LastError(); now != before && errors.Is(now, nats.ErrPermissionViolation) { //nolint:errorlint // identity is meant
					cancel(now)
				}
			}
		}
	}()
	err := request(ctx)
	if cause := context.Cause(ctx); err != nil && denied(cause) {
		err = cause
	}
	cancel(nil)
	<-watched
	return err
}

// denied reports whether the credentials do not allow a request.
func denied(err error) bool { return errors.Is(err, nats.ErrPermissionViolation) }

// Differences lists, one line each, the fields in which a stream is not as
// wanted: the field, what it is, what is wanted. What the server adds of its
// own (metadata, consumer limits) is none of them.
func Differences(have, want jetstream.StreamConfig) []string {
	h, w := fields(have), fields(want)
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(w)) {
		if key == "metadata" || key == "consumer_limits" {
			continue
		}
		if !reflect.DeepEqual(h[key], w[key]) {
			lines = append(lines, fmt.Sprintf("%s is %v, want %v", key, text(h[key]), text(w[key])))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h)) {
		if _, known := w[key]; !known && key != "metadata" && key != "consumer_limits" {
			lines = append(lines, fmt.Sprintf("%s is %v, want none", key, text(h[key])))
		}
	}
	return lines
}

func fields(c jetstream.StreamConfig) map[string]any {
	b, _ := json.Marshal(c)
	m := map[string]any{}
	_ = json.Unmarshal(b, &m)
	return m
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
