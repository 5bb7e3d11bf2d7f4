package operate

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"fetchworker"
	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go/jetstream"
)

// Known are all providers that a worker serves or served, or of which
// anything is stored.
func (f *Fleet) Known(ctx context.Context) ([]string, error) {
	names := map[string]bool{}
	for _, p := range f.Providers() {
		names[p] = true
	}
	stream, err := f.desk.JS.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		return nil, fmt.Errorf("look up the requests: %w", err)
	}
	consumers := stream.ConsumerNames(ctx)
	for name := range consumers.Name() {
		if p := broker.ServedProvider(name); p != "" {
			names[p] = true
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, fmt.Errorf("list the consumers: %w", err)
	}
	for _, stream := range []string{fetchworker.StreamRequests, fetchworker.StreamReplay, fetchworker.StreamDLQ, fetchworker.StreamReview} {
		if err := f.desk.storedProviders(ctx, stream, names); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// storedProviders adds those of which a stream holds something. The subjects
// are listed only if the known ones do not account for all: a list of a
// hundred thousand is not for every refresh.
func (d *Desk) storedProviders(ctx context.Context, stream string, names map[string]bool) error {
	s, err := d.JS.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("look up %s: %w", stream, err)
	}
	left := int(min(s.CachedInfo().State.Msgs, 1<<40))
	for p := range names {
		count, _, err := d.Count(ctx, stream, prefixes[stream]+p+".>")
		if err != nil {
			return err
		}
		left -= count
	}
	if left <= 0 {
		return nil
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(prefixes[stream]+">"))
	if err != nil {
		return fmt.Errorf("list the subjects of %s: %w", stream, err)
	}
	for subject := range info.State.Subjects {
		// Anybody may publish to a name that is none, such as a wildcard.
		if a, err := fetchworker.ParseSubject(subject); err == nil && fetchworker.ValidToken(a.Provider) {
			names[a.Provider] = true
		}
	}
	return nil
}

var prefixes = map[string]string{
	fetchworker.StreamRequests: "fetch.request.",
	fetchworker.StreamReplay:   "fetch.replay.",
	fetchworker.StreamDLQ:      "fetch.dlq.",
	fetchworker.StreamReview:   "fetch.review.",
}
