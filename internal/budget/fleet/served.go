package fleet

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/store"
	"fetchworker/internal/wire"
)

// A provider that was served once is so until it is retired, whether or not a
// worker lives. That is noted beside the bucket, in the stream of counters: so
// a register that is lost with the whole bucket is not taken for one that never
// was, and what waits for a provider is not refused while its workers are away.
const served = ".bytes.served"

// Served are the providers that a worker has served, in one look.
func Served(ctx context.Context, js jetstream.JetStream) (map[string]bool, error) {
	listed, err := wire.List(ctx, js.Conn(), store.CounterStream, "fetch.budget.*"+served)
	if err != nil {
		return nil, fmt.Errorf("who was served: %w", err)
	}
	all := map[string]bool{}
	for subject := range listed.Subjects {
		all[strings.TrimSuffix(strings.TrimPrefix(subject, "fetch.budget."), served)] = true
	}
	return all, nil
}

// NoteServed notes that a provider is served. To repeat it changes nothing that
// anybody reads.
func NoteServed(ctx context.Context, js jetstream.JetStream, provider string) error {
	_, err := store.NewCounter(js).Add(ctx, "fetch.budget."+provider+served, 1, "")
	return err
}

// Served are the providers that are served: attended by a worker that lives, or
// registered or noted as served, and not retired since.
func (v *View) Served(noted map[string]bool) (served, attended map[string]bool) {
	v.ask()
	v.mu.Lock()
	defer v.mu.Unlock()
	attended = v.served()
	served = maps.Clone(attended)
	for provider, p := range v.providers {
		if (p.register != nil || p.quota != "") && p.control.Retired == nil {
			served[provider] = true
		}
	}
	for provider := range noted {
		if p := v.providers[provider]; p == nil || p.control.Retired == nil {
			served[provider] = true
		}
	}
	return served, attended
}
