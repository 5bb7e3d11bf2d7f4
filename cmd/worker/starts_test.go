package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// Providers whose start is not over are named with what they wait for, one that
// fails in passing is tried again, and none waits for another.
func TestStartsThatAreNotOverAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStarts(zap.NewNop())
		if s.begin("known", nil) != nil || s.ready(t.Context()) != nil {
			t.Error("what needs no start is waited for")
		}
		silent, tries := true, 0
		begins := []func(context.Context) error{s.begin("fmp", func(ctx context.Context) error {
			if tries++; silent {
				<-ctx.Done() // the server says nothing
				return fmt.Errorf("its register: %w", ctx.Err())
			}
			return nil
		})}
		for i := range 20 {
			begins = append(begins, s.begin(fmt.Sprint("other-", i), func(context.Context) error { return nil }))
		}
		if err := s.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "(21)") || !strings.Contains(err.Error(), "…") {
			t.Errorf("at first: %v", err)
		}
		for _, begin := range begins {
			go func() {
				if err := begin(t.Context()); err != nil {
					t.Error(err)
				}
			}()
		}
		time.Sleep(10 * time.Second)
		if err := s.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "(1)") || !strings.Contains(err.Error(), "fmp (its register: ") {
			t.Errorf("while one waits: %v", err)
		}
		silent = false
		time.Sleep(5 * time.Second)
		if err := s.ready(t.Context()); err != nil || tries < 4 {
			t.Errorf("after %d tries: %v", tries, err)
		}
	})
}

// What no waiting brings ends the process, with the provider's name; so does
// what has not come in a minute.
func TestAStartThatFailsForGoodIsTold(t *testing.T) {
	for says, why := range map[string]error{"at once": nats.ErrPermissionViolation, "after a minute": nats.ErrNoResponders} {
		synctest.Test(t, func(t *testing.T) {
			s := newStarts(zap.NewNop())
			began := time.Now()
			begin := s.begin("fmp", func(context.Context) error { return why })
			go func() { _ = begin(t.Context()) }()
			err := s.run(t.Context())
			if !errors.Is(err, why) || !strings.Contains(err.Error(), "fmp") {
				t.Errorf("%s: %v", says, err)
			}
			if took := time.Since(began); (took > time.Minute) != (says == "after a minute") || took > 2*time.Minute {
				t.Errorf("%s: it took %v", says, took)
			}
		})
	}
}
