package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// lease takes or renews the right to read for a provider: until when, or zero
// if it is another's.
func lease(ctx context.Context, kv jetstream.KeyValue, provider, name string, now time.Time) (time.Time, error) {
	type holder struct {
		By    string    `json:"by"`
		Until time.Time `json:"until"`
	}
	ours := holder{name, now.Add(leaseLasts)}
	value, _ := json.Marshal(ours) // plain fields: cannot fail
	key := "drain." + provider
	entry, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		_, err = kv.Create(ctx, key, value)
	case err == nil:
		var theirs holder
		if json.Unmarshal(entry.Value(), &theirs) == nil && theirs.By != name && now.Before(theirs.Until) {
			return time.Time{}, nil
		}
		_, err = kv.Update(ctx, key, value, entry.Revision())
	}
	if errors.Is(err, jetstream.ErrKeyExists) { // or is another by now: it is one code
		return time.Time{}, nil // another was faster
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("lease: %w", err)
	}
	return ours.Until, nil
}
