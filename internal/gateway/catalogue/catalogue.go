// Package catalogue remembers for a moment what the fleet tells of its
// providers, so that no caller of the gateway costs the fleet a question of
// its own.
package catalogue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchworker"

	"golang.org/x/sync/errgroup"
)

const (
	// sheetsAge is how long the operations of a provider are believed: they
	// change when workers start anew.
	sheetsAge = 30 * time.Second
	// standingAge is the same of how a provider stands, which changes all the time.
	standingAge = time.Second
	// staleAge is how long what was told is shown when nobody tells it any more.
	staleAge = time.Hour
	// askedAtOnce are asked for together.
	askedAtOnce = 8
	// silentAfter is how long a fleet that works takes at most to say something.
	silentAfter = time.Second
)

// Catalogue is what the fleet has told lately. It is safe for concurrent use.
type Catalogue struct {
	client *fetchworker.Client

	mu        sync.Mutex
	providers *told[[]string]
	sheets    map[string]*told[fetchworker.Catalogue]
}

// told is an answer of the fleet. Who finds it old asks anew, one at a time.
type told[T any] struct {
	asking chan struct{} // held by the one who asks, or looks
	value  T
	at     time.Time
	failed error // of the last question, and when
	lately time.Time
}

func newTold[T any]() *told[T] { return &told[T]{asking: make(chan struct{}, 1)} }

// New asks as the client does.
func New(client *fetchworker.Client) *Catalogue {
	return &Catalogue{client: client, providers: newTold[[]string](), sheets: map[string]*told[fetchworker.Catalogue]{}}
}

// Providers are all that the fleet knows, in their order.
func (c *Catalogue) Providers(ctx context.Context) ([]string, error) {
	return c.names(ctx, sheetsAge)
}

func (c *Catalogue) names(ctx context.Context, age time.Duration) ([]string, error) {
	return c.providers.get(ctx, age, func(ctx context.Context) ([]string, error) {
		names, err := c.client.Providers(ctx)
		slices.Sort(names)
		return names, err
	})
}

// Provider is what can be asked of a provider. A *fetchworker.RequestError
// says that there is none of that name, and which there are.
func (c *Catalogue) Provider(ctx context.Context, name string) (fetchworker.Catalogue, error) {
	return c.provider(ctx, name, sheetsAge)
}

// Standing is the same, and how the provider stands just now.
func (c *Catalogue) Standing(ctx context.Context, name string) (fetchworker.Catalogue, error) {
	return c.provider(ctx, name, standingAge)
}

func (c *Catalogue) provider(ctx context.Context, name string, age time.Duration) (fetchworker.Catalogue, error) {
	known, err := c.names(ctx, max(age, sheetsAge))
	if err != nil {
		return fetchworker.Catalogue{}, err
	}
	if !slices.Contains(known, name) {
		return fetchworker.Catalogue{}, fmt.Errorf("catalogue: %w", &fetchworker.RequestError{Field: "provider", Want: fmt.Sprintf("one of %s; there is no %.40q", strings.Join(known, ", "), name)})
	}
	c.mu.Lock()
	sheet := c.sheets[name]
	if sheet == nil {
		sheet = newTold[fetchworker.Catalogue]()
		c.sheets[name] = sheet
	}
	c.mu.Unlock()
	return sheet.get(ctx, age, func(ctx context.Context) (fetchworker.Catalogue, error) { return c.client.Catalogue(ctx, name) })
}

// Operation is one thing that can be asked. A *fetchworker.RequestError says
// that there is no such thing, and what there is.
func (c *Catalogue) Operation(ctx context.Context, provider, name string) (fetchworker.CatalogueOperation, error) {
	sheet, err := c.Provider(ctx, provider)
	if err != nil {
		return fetchworker.CatalogueOperation{}, err
	}
	var names []string
	for _, o := range sheet.Operations {
		if o.Name == name {
			return o, nil
		}
		names = append(names, o.Name)
	}
	return fetchworker.CatalogueOperation{}, fmt.Errorf("catalogue: %w", &fetchworker.RequestError{Field: "operation", Want: fmt.Sprintf("one of %s; %s has no %.40q", strings.Join(names, ", "), provider, name)})
}

// Fresh is how long an answer of an operation is fresh, 0 where that is not
// known. It may be told from long ago, so that it hardly ever costs a question.
func (c *Catalogue) Fresh(ctx context.Context, provider, operation string) time.Duration {
	sheet, err := c.provider(ctx, provider, staleAge)
	if err != nil {
		return 0
	}
	for _, o := range sheet.Operations {
		if o.Name == operation {
			return time.Duration(o.Fresh)
		}
	}
	return 0
}

// All are all providers with their operations, in their order.
func (c *Catalogue) All(ctx context.Context) ([]fetchworker.Catalogue, error) {
	return c.all(ctx, c.Provider)
}

// Standings are all providers, and how each stands just now.
func (c *Catalogue) Standings(ctx context.Context) ([]fetchworker.Catalogue, error) {
	return c.all(ctx, c.Standing)
}

func (c *Catalogue) all(ctx context.Context, one func(context.Context, string) (fetchworker.Catalogue, error)) ([]fetchworker.Catalogue, error) {
	names, err := c.Providers(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]fetchworker.Catalogue, len(names))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(askedAtOnce)
	for i, name := range names {
		group.Go(func() (err error) {
			all[i], err = one(asking, name)
			if wrong := new(fetchworker.RequestError); errors.As(err, &wrong) { // another worker's, which is gone
				all[i], err = fetchworker.Catalogue{Provider: name}, nil
			}
			return err
		})
	}
	return all, group.Wait()
}

// get is the value, if it is young enough, else what ask says. Where nobody
// says anything, an old one is better than none.
func (t *told[T]) get(ctx context.Context, age time.Duration, ask func(context.Context) (T, error)) (T, error) {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
		if ctx.Err() != nil { // both may be so
			var none T
			return none, context.Cause(ctx)
		}
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
	if !t.at.IsZero() && time.Since(t.at) < age {
		return t.value, nil
	}
	value, err := t.value, t.failed
	if err == nil || time.Since(t.lately) > standingAge {
		began := time.Now()
		value, err = ask(ctx)
		// That the fleet says nothing is remembered also where the caller had no
		// time to hear the end of it, or each would find it out for himself, one
		// behind another.
		if ctx.Err() == nil {
			t.failed, t.lately = err, time.Now()
		} else if time.Since(began) >= silentAfter {
			t.failed, t.lately = fetchworker.ErrNobodyServes, time.Now()
		}
	}
	if err == nil {
		t.value, t.at = value, time.Now()
		return value, nil
	}
	if wrong := new(fetchworker.RequestError); !t.at.IsZero() && time.Since(t.at) < staleAge && !errors.As(err, &wrong) {
		return t.value, nil
	}
	return value, err
}
