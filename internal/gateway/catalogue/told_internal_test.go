package catalogue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
)

// What the fleet told is believed for a time, asked anew after it by one at a
// time, and shown for an hour where nobody tells it any more; that nobody does is
// remembered for a moment, and that there is no such thing is told at once.
func TestWhatWasToldIsBelievedForATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const age = 30 * time.Second
		one := newTold[int]()
		asked := 0
		var says error
		var takes time.Duration
		ask := func(ctx context.Context) (int, error) {
			asked++
			timer := time.NewTimer(takes)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			return asked, says
		}
		get := func(wantAsked, want int, wrong error) {
			t.Helper()
			got, err := one.get(t.Context(), age, ask)
			if asked != wantAsked || got != want && err == nil || !errors.Is(err, wrong) || (err == nil) != (wrong == nil) {
				t.Errorf("asked %d times, want %d: got %d, %v, want %d, %v", asked, wantAsked, got, err, want, wrong)
			}
		}
		says = fetchworker.ErrNobodyServes
		get(1, 0, says)
		get(1, 0, says) // it was just said
		time.Sleep(standingAge - time.Millisecond)
		get(1, 0, says)
		time.Sleep(2 * time.Millisecond)
		get(2, 0, says)
		time.Sleep(2 * standingAge)
		says = nil
		get(3, 3, nil)
		time.Sleep(age - time.Millisecond)
		get(3, 3, nil)
		time.Sleep(time.Millisecond)
		get(4, 4, nil)

		time.Sleep(age)
		says = fetchworker.ErrNobodyServes
		get(5, 4, nil) // an old one is better than none
		get(5, 4, nil)
		time.Sleep(staleAge - age - time.Second)
		get(6, 4, nil)
		time.Sleep(2 * time.Second)
		get(7, 0, says)
		says = nil
		time.Sleep(2 * standingAge)
		get(8, 8, nil)
		time.Sleep(age)
		wrong := &fetchworker.RequestError{Field: "provider", Want: "another"}
		says = wrong
		get(9, 0, wrong) // it is gone, and not only not told

		// One at a time asks, and the others have what it is told.
		says = nil
		time.Sleep(2 * standingAge)
		takes = time.Second
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if got, err := one.get(t.Context(), age, ask); got != 10 || err != nil {
					t.Errorf("%d, %v", got, err)
				}
			})
		}
		all.Wait()
		if asked != 10 {
			t.Errorf("%d questions for one answer", asked-9)
		}

		// Who had no time to hear the end of it has told the next ones all the same.
		two := newTold[int]()
		asked, takes = 0, time.Hour
		short, cancel := context.WithTimeout(t.Context(), silentAfter)
		defer cancel()
		if _, err := two.get(short, age, ask); err == nil {
			t.Error("an answer that never came")
		}
		began := time.Now()
		if _, err := two.get(t.Context(), age, ask); !errors.Is(err, fetchworker.ErrNobodyServes) || time.Since(began) > 0 || asked != 1 {
			t.Errorf("the next one: %v after %v, %d questions", err, time.Since(began), asked)
		}
		// Of one that leaves sooner nothing is known.
		three := newTold[int]()
		asked = 0
		shorter, cancel := context.WithTimeout(t.Context(), silentAfter/2)
		defer cancel()
		_, _ = three.get(shorter, age, ask)
		takes = 0
		if got, err := three.get(t.Context(), age, ask); got != 2 || err != nil {
			t.Errorf("after one that had no patience: %d, %v", got, err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		time.Sleep(2 * age)
		if _, err := three.get(over, age, ask); err == nil || asked != 2 {
			t.Errorf("who is gone already: %v, %d questions", err, asked)
		}
	})
}

// All are asked for a few at a time; of one that has gone meanwhile nothing is
// told, and of one that cannot be had the whole is an error.
func TestAllAreAskedForAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(nil)
		for n := range 50 {
			c.providers.value = append(c.providers.value, fmt.Sprint("p-", n))
		}
		c.providers.at = time.Now()
		var under, most atomic.Int64
		var gone error
		one := func(_ context.Context, name string) (fetchworker.Catalogue, error) {
			most.Store(max(most.Load(), under.Add(1)))
			time.Sleep(time.Millisecond)
			under.Add(-1)
			if name == "p-7" {
				return fetchworker.Catalogue{}, gone
			}
			return fetchworker.Catalogue{Provider: name, Configured: true}, nil
		}
		gone = fmt.Errorf("wrapped: %w", &fetchworker.RequestError{Field: "provider", Want: "another"})
		all, err := c.all(t.Context(), one)
		if err != nil || len(all) != 50 || most.Load() != askedAtOnce {
			t.Errorf("%d of 50, %d at once, %v", len(all), most.Load(), err)
		}
		for n, p := range all {
			if p.Provider != fmt.Sprint("p-", n) || p.Configured == (n == 7) {
				t.Errorf("the %dth is %+v", n, p)
			}
		}
		gone = fetchworker.ErrNobodyServes
		if _, err := c.all(t.Context(), one); !errors.Is(err, gone) {
			t.Error(err)
		}
	})
}

// Of a name that no provider has nothing is remembered, however many are tried, and
// who asks is told which there are; of one that has gone a caller that only wants to
// know how long an answer is fresh hears that it is not known.
func TestNobodysWordsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(nil)
		c.providers.value, c.providers.at = []string{"fmp", "fred"}, time.Now()
		for n := range 100 {
			name := fmt.Sprint("nobody-", n, strings.Repeat("x", n))
			_, err := c.Provider(t.Context(), name)
			_, ofOne := c.Operation(t.Context(), name, "quote")
			for _, err := range []error{err, ofOne} {
				var wrong *fetchworker.RequestError
				if !errors.As(err, &wrong) || wrong.Field != "provider" || !strings.Contains(wrong.Want, "one of fmp, fred; there is no") || len(wrong.Want) > 100 {
					t.Errorf("%s: %v", name, err)
				}
			}
			if fresh := c.Fresh(t.Context(), name, "quote"); fresh != 0 {
				t.Errorf("%s: fresh for %v", name, fresh)
			}
		}
		if len(c.sheets) != 0 {
			t.Errorf("%d words of callers are remembered", len(c.sheets))
		}

		known := newTold[fetchworker.Catalogue]()
		known.value, known.at = fetchworker.Catalogue{Provider: "fmp", Operations: []fetchworker.CatalogueOperation{{Name: "news"}, {Name: "quote", Fresh: fetchworker.Duration(time.Minute)}}}, time.Now()
		c.sheets["fmp"] = known
		if o, err := c.Operation(t.Context(), "fmp", "quote"); err != nil || o.Fresh != fetchworker.Duration(time.Minute) {
			t.Errorf("%+v, %v", o, err)
		}
		var wrong *fetchworker.RequestError
		if _, err := c.Operation(t.Context(), "fmp", "quotes"); !errors.As(err, &wrong) || wrong.Field != "operation" || wrong.Want != `one of news, quote; fmp has no "quotes"` {
			t.Error(err)
		}
		for name, want := range map[string]time.Duration{"quote": time.Minute, "news": 0, "quotes": 0} {
			if got := c.Fresh(t.Context(), "fmp", name); got != want {
				t.Errorf("%s is fresh for %v", name, got)
			}
		}
		// It hardly ever costs a question: an hour's old word will do for it.
		time.Sleep(staleAge - time.Second)
		c.providers.at = time.Now()
		if got := c.Fresh(t.Context(), "fmp", "quote"); got != time.Minute {
			t.Errorf("after an hour fresh for %v", got)
		}
		gone, cancel := context.WithCancelCause(t.Context())
		cancel(fetchworker.ErrClosed)
		if _, err := c.Provider(gone, "fmp"); !errors.Is(err, fetchworker.ErrClosed) {
			t.Errorf("who has gone is told %v", err)
		}
		if all, err := c.All(gone); !errors.Is(err, fetchworker.ErrClosed) || all != nil {
			t.Errorf("who has gone is told %v of all", err)
		}
	})
}
