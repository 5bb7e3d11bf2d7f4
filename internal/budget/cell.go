package budget

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// cell is one value that is replaced only by compare-and-set.
type cell interface {
	// get reads the value and its revision: nil and the revision to replace
	// where there is none.
	get(ctx context.Context) (value []byte, rev uint64, err error)
	// put replaces revision rev. errStale says that it was not stored because
	// another was; any other error leaves open whether it was.
	put(ctx context.Context, value []byte, rev uint64) (uint64, error)
}

var errStale = errors.New("replaced by another")

// kvCell is a cell in a bucket.
type kvCell struct {
	kv  jetstream.KeyValue
	key string
}

func (c kvCell) get(ctx context.Context) ([]byte, uint64, error) {
	e, err := c.kv.Get(ctx, c.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // a deleted one too
		// Create replaces a delete marker by itself: 0 stands for both.
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("get %s: %w", c.key, err)
	}
	return e.Value(), e.Revision(), nil
}

func (c kvCell) put(ctx context.Context, value []byte, rev uint64) (uint64, error) {
	var next uint64
	var err error
	if rev == 0 {
		next, err = c.kv.Create(ctx, c.key, value)
	} else {
		next, err = c.kv.Update(ctx, c.key, value, rev)
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch):
		return 0, fmt.Errorf("put %s: %w", c.key, errStale)
	case err != nil:
		return 0, fmt.Errorf("put %s: %w", c.key, err)
	}
	return next, nil
}
