package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Cell is one value that is replaced only by compare-and-set.
type Cell interface {
	// Get reads the value and its revision: nil and the revision to replace
	// where there is none.
	Get(ctx context.Context) (value []byte, rev uint64, err error)
	// Put replaces revision rev. ErrStale says that it was not stored because
	// another was; any other error leaves open whether it was.
	Put(ctx context.Context, value []byte, rev uint64) (uint64, error)
}

// ErrStale says that a value was not stored because another was before it.
var ErrStale = errors.New("replaced by another")

// writeInProcess is the server's word that another compare-and-set of the same
// key is on its way through the replicas: ours was not stored.
const writeInProcess jetstream.ErrorCode = 10164

// kvCell is a cell in a bucket.
type kvCell struct {
	kv  jetstream.KeyValue
	key string
}

// At is the cell of a key in a bucket.
func At(kv jetstream.KeyValue, key string) Cell { return kvCell{kv: kv, key: key} }

func (c kvCell) Get(ctx context.Context) ([]byte, uint64, error) {
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

func (c kvCell) Put(ctx context.Context, value []byte, rev uint64) (uint64, error) {
	var next uint64
	var err error
	if rev == 0 {
		next, err = c.kv.Create(ctx, c.key, value)
	} else {
		next, err = c.kv.Update(ctx, c.key, value, rev)
	}
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch),
		errors.As(err, &api) && api.ErrorCode == writeInProcess:
		return 0, fmt.Errorf("put %s: %w", c.key, ErrStale)
	case err != nil:
		return 0, fmt.Errorf("put %s: %w", c.key, err)
	}
	return next, nil
}

// WriteTimeout is how long a write may take before its outcome counts as
// unknown.
const WriteTimeout = 2 * time.Second

// Put is the cell's, with an end: whether what takes longer than WriteTimeout was
// stored is unknown.
func Put(ctx context.Context, c Cell, value []byte, rev uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, WriteTimeout)
	defer cancel()
	return c.Put(ctx, value, rev)
}

// Get is the cell's, with the same end.
func Get(ctx context.Context, c Cell) ([]byte, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, WriteTimeout)
	defer cancel()
	return c.Get(ctx)
}
