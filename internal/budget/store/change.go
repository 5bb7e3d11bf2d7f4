package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/wait"
)

// ErrConflict says that a compare-and-set lost again and again.
var ErrConflict = errors.New("changed meanwhile")

// Change replaces a value by compare-and-set until it is stored. It stops
// without a write when edit returns nil.
func Change(ctx context.Context, kv jetstream.KeyValue, key string, edit func([]byte) ([]byte, error)) error {
	c := At(kv, key)
	for try := range 50 {
		value, rev, err := c.Get(ctx)
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		next, err := edit(value)
		if err != nil || next == nil {
			return err
		}
		_, err = c.Put(ctx, next, rev)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrStale) {
			return fmt.Errorf("write %s: %w", key, err)
		}
		if err := wait.For(ctx, wait.Jitter(0, time.Millisecond<<min(try, 6))); err != nil {
			return err
		}
	}
	return fmt.Errorf("write %s: %w", key, ErrConflict)
}
