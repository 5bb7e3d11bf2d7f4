package fetch

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"fetchworker"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// suspectAfter deliveries a message may be what kills workers.
	suspectAfter = 5
	// everyone is the share that leaves no room beside it.
	everyone = 1 << 20
	// poisonAfter lone runs that killed the worker it certainly is.
	poisonAfter = 3
)

// errPoison says that a message has killed its worker often enough.
var errPoison = errors.New("the request stopped its worker in three runs of its own")

// guarded runs the part of a request's life in which it could kill its
// worker. A suspect runs it alone in the process: a delivery count by itself
// would bury the neighbours that a crash takes along. Its key in the bucket
// is raised before and put back after, so that what stands there counts the
// lone runs that did not come back.
func (w *Worker) guarded(ctx context.Context, d *delivery, run func() error) error {
	share := int64(1)
	if d.count > suspectAfter {
		share = everyone
	}
	if err := w.inside.Acquire(ctx, share); err != nil {
		return err
	}
	defer w.inside.Release(share)
	if share == 1 {
		return run()
	}
	key := "suspect." + d.stream() + "." + strconv.FormatUint(d.sequence, 10)
	died, err := w.lonelyDeaths(ctx, key)
	if err != nil {
		return err
	}
	if died >= poisonAfter {
		return w.poison(ctx, d, key)
	}
	if _, err := w.kv.PutString(ctx, key, strconv.Itoa(died+1)); err != nil {
		return fmt.Errorf("raise %s: %w", key, err)
	}
	err = run()
	// It came back: what is left of its suspicion is the runs before.
	if died == 0 {
		return errors.Join(err, w.kv.Purge(ctx, key))
	}
	_, putErr := w.kv.PutString(ctx, key, strconv.Itoa(died))
	return errors.Join(err, putErr)
}

func (w *Worker) lonelyDeaths(ctx context.Context, key string) (int, error) {
	entry, err := w.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	n, err := strconv.Atoi(string(entry.Value()))
	if err != nil {
		return 0, nil //nolint:nilerr // what cannot be read counts for nothing, or it would hold the request for ever
	}
	return n, nil
}

// poison buries a message that is not run any more. Only what its identity
// needs is read of it.
func (w *Worker) poison(ctx context.Context, d *delivery, key string) error {
	r, _ := w.decode(d)
	if err := w.bury(ctx, r, fetchworker.ClassPoison, fetchworker.CodePoison, errPoison.Error()); err != nil {
		return err
	}
	if err := w.kv.Purge(ctx, key); err != nil {
		return fmt.Errorf("clear %s: %w", key, err)
	}
	return errPoison
}
