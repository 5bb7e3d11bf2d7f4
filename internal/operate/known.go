package operate

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// Survey is what the fleet and its streams name.
type Survey struct {
	Providers []string // that a worker serves or served, or that an operator has named
	Unserved  Unserved
}

// Unserved is what is stored of names that nobody serves. Anybody can make one
// up, and as many as they like.
type Unserved struct {
	Names    []string `json:"names"`
	Requests int      `json:"requests"`
	Released int      `json:"released"`
	Letters  int      `json:"letters"`
	Review   int      `json:"review"`
}

// Knows reports whether anything of a provider is known.
func (s Survey) Knows(provider string) bool {
	return slices.Contains(s.Providers, provider) || slices.Contains(s.Unserved.Names, provider)
}

// Served are the providers that a worker serves, or has served.
func (f *Fleet) Served(ctx context.Context) ([]string, error) {
	names, err := f.named(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(p string) bool {
		view := f.Provider(p, f.desk.Now())
		return !view.Registered && len(view.Workers) == 0
	}), nil
}

// named are the providers that the shared state and the consumers name. It costs
// the same however much is stored.
func (f *Fleet) named(ctx context.Context) ([]string, error) {
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
	return slices.Sorted(maps.Keys(names)), nil
}

// Survey looks at the shared state, the consumers and the streams.
func (f *Fleet) Survey(ctx context.Context) (Survey, error) {
	known, err := f.named(ctx)
	if err != nil {
		return Survey{}, err
	}
	survey := Survey{Providers: known}
	others := map[string]bool{}
	for stream, count := range map[string]*int{
		fetchworker.StreamRequests: &survey.Unserved.Requests, wire.StreamReplay: &survey.Unserved.Released,
		wire.StreamDLQ: &survey.Unserved.Letters, wire.StreamReview: &survey.Unserved.Review,
	} {
		counted := map[string]int{}
		if *count, err = f.desk.others(ctx, stream, survey.Providers, others, counted); err != nil {
			return Survey{}, err
		}
		if stream == wire.StreamDLQ {
			f.counted = counted
		}
	}
	survey.Unserved.Names = slices.Sorted(maps.Keys(others))
	// Letters and items are of requests that were accepted once. As long as
	// their providers are few they are shown as the others are.
	if u := survey.Unserved; u.Requests == 0 && len(u.Names) <= namesShown {
		survey.Providers, survey.Unserved = slices.Sorted(slices.Values(append(survey.Providers, u.Names...))), Unserved{}
	}
	return survey, nil
}

// namesShown is how many names that nobody serves are shown one by one.
const namesShown = 10

// others counts what a stream holds of names that are none of the known, and
// adds those names. The subjects are listed only if the known names do not
// account for all: a list of a hundred thousand is not for every refresh.
func (d *Desk) others(ctx context.Context, stream string, known []string, names map[string]bool, counted map[string]int) (int, error) {
	s, err := d.JS.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("look up %s: %w", stream, err)
	}
	left := int(min(s.CachedInfo().State.Msgs, 1<<40))
	for _, p := range known {
		if left <= 0 {
			return 0, nil
		}
		count, _, err := d.Count(ctx, stream, prefixes[stream]+p+".>")
		if err != nil {
			return 0, err
		}
		counted[p] = count
		left -= count
	}
	if left <= 0 {
		return 0, nil
	}
	if left > mostListed {
		for _, sequence := range []uint64{1, s.CachedInfo().State.LastSeq} {
			raw, err := d.Log.Next(ctx, stream, prefixes[stream]+">", sequence)
			if err != nil {
				continue // it is gone meanwhile
			}
			if a, err := wire.ParseSubject(raw.Subject); err == nil && !slices.Contains(known, a.Provider) {
				names[a.Provider] = true
			}
		}
		return left, nil
	}
	subjects, err := d.subjects(ctx, s, prefixes[stream]+">")
	if err != nil {
		return 0, err
	}
	count := 0
	for subject, messages := range subjects {
		a, err := wire.ParseSubject(subject)
		switch {
		case err != nil: // the sweep drops it
		case slices.Contains(known, a.Provider):
			continue
		default:
			names[a.Provider] = true
		}
		count += messages
	}
	return count, nil
}

// subjects counts a stream's messages by subject.
func (d *Desk) subjects(ctx context.Context, s jetstream.Stream, filter string) (map[string]int, error) {
	listed, err := wire.List(ctx, d.JS.Conn(), s.CachedInfo().Config.Name, filter)
	if err != nil {
		return nil, fmt.Errorf("list the subjects of %s: %w", s.CachedInfo().Config.Name, err)
	}
	counted := make(map[string]int, len(listed.Subjects))
	for subject, messages := range listed.Subjects {
		counted[subject] = int(min(messages, 1<<40))
	}
	return counted, nil
}

// mostListed is how many messages of names that nobody serves are listed to
// find the names. Of more, those of the first and the last are told.
const mostListed = 50_000

var prefixes = map[string]string{
	fetchworker.StreamRequests: "fetch.request.",
	wire.StreamReplay:          "fetch.replay.",
	wire.StreamDLQ:             "fetch.dlq.",
	wire.StreamReview:          "fetch.review.",
}
