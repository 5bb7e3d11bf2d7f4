package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/wait"

	"go.uber.org/zap"
)

// starts are the providers whose start is not over: one that is ready takes
// work, and does not wait for the others.
type starts struct {
	logger *zap.Logger
	places chan struct{} // one for each start under way

	mu      sync.Mutex
	waiting map[string]error // by provider, why its last try failed; nil: it has not
	failed  chan error       // has the first that no waiting brings
}

const (
	// startsAtOnce bounds what the server is asked for together.
	startsAtOnce = 16
	// startTries is how long a start is tried again while it fails in passing,
	// and startEach how long one try may take and how long it rests after it.
	startTries, startTime, startEach = time.Minute, 3 * time.Second, 250 * time.Millisecond
)

func newStarts(logger *zap.Logger) *starts {
	return &starts{logger: logger, places: make(chan struct{}, startsAtOnce), waiting: map[string]error{}, failed: make(chan error, 1)}
}

// begin is a provider's start, a step that may be repeated; nil needs none.
func (s *starts) begin(provider string, step func(context.Context) error) func(context.Context) error {
	if step == nil {
		return nil
	}
	_ = s.note(provider, nil)
	return func(ctx context.Context) error {
		err := s.try(ctx, provider, step)
		switch {
		case err == nil:
			s.mu.Lock()
			delete(s.waiting, provider)
			s.mu.Unlock()
		case ctx.Err() == nil:
			select {
			case s.failed <- fmt.Errorf("provider %s: %w", provider, err):
			default:
			}
		}
		return err
	}
}

func (s *starts) try(ctx context.Context, provider string, step func(context.Context) error) error {
	var began time.Time // of the first try: to wait for a place is none
	for {
		err := s.once(ctx, func(ctx context.Context) error {
			if began.IsZero() {
				began = time.Now()
			}
			return step(ctx)
		})
		if err == nil || ctx.Err() != nil || !broker.Passing(err) || time.Since(began) > startTries {
			return err
		}
		if s.note(provider, err) == nil { // the first time; /readyz tells the rest
			s.logger.Warn("provider is not ready yet", zap.String("provider", provider), zap.Error(err))
		}
		if wait.For(ctx, startEach) != nil {
			return err
		}
	}
}

func (s *starts) once(ctx context.Context, step func(context.Context) error) error {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return step(ctx)
}

// note keeps why a provider waits, and returns why it did before.
func (s *starts) note(provider string, err error) (before error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.waiting[provider]
	s.waiting[provider] = err
	return before
}

// run ends with the first start that failed for good, or with ctx.
func (s *starts) run(ctx context.Context) error {
	select {
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// namedAtMost is how many providers are told by name.
const namedAtMost = 5

// ready names the providers that are not.
func (s *starts) ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return nil
	}
	var told []string
	for _, provider := range slices.Sorted(maps.Keys(s.waiting)) {
		if len(told) == namedAtMost {
			told = append(told, "…")
			break
		}
		if err := s.waiting[provider]; err != nil {
			provider += " (" + err.Error() + ")"
		}
		told = append(told, provider)
	}
	return fmt.Errorf("starting: not ready yet (%d): %s; the other providers take work", len(s.waiting), strings.Join(told, ", "))
}
