package fetchworker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"fetchworker"
)

func (s *service) subscriber(durable string) *fetchworker.Subscriber {
	s.t.Helper()
	nc := s.Connect(s.t)
	s.t.Cleanup(nc.Close)
	sub, err := fetchworker.NewSubscriber(nc, fetchworker.SubscriberOptions{Durable: durable})
	if err != nil {
		s.t.Fatal(err)
	}
	return sub
}

// collect runs a subscriber until n answers are handled, and a moment longer.
func collect(t *testing.T, sub *fetchworker.Subscriber, f fetchworker.ResultFilter, n int, handle func(fetchworker.Answer) error) []fetchworker.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var mu sync.Mutex
	var got []fetchworker.Answer
	err := sub.Subscribe(ctx, f, func(_ context.Context, a fetchworker.Answer) error {
		mu.Lock()
		defer mu.Unlock()
		if err := handle(a); err != nil {
			return err
		}
		if got = append(got, a); len(got) == n {
			time.AfterFunc(200*time.Millisecond, cancel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != n {
		t.Errorf("%d answers, want %d", len(got), n)
	}
	return got
}

func well(fetchworker.Answer) error { return nil }

func TestASubscriberGetsEveryAnswerAtLeastOnce(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startService(t)
	for i := range 20 {
		s.store(ok(identity(fmt.Sprint("q-", i)), `[1]`))
	}
	body := bytes.Repeat([]byte("x"), fetchworker.MaxInlineBody+1)
	s.storeLarge(identity("large"), body, nil)
	failures := 1
	got := collect(t, s.subscriber("files"), fetchworker.ResultFilter{Final: true}, 21, func(a fetchworker.Answer) error {
		if a.Identity.ID == "q-7" && failures > 0 {
			failures--
			return errors.New("the disk is full")
		}
		return nil
	})
	seen := map[string]int{}
	for _, a := range got {
		seen[a.Identity.ID]++
		if a.Identity.ID == "large" && !bytes.Equal(a.Body, body) {
			t.Errorf("%d bytes of the large one", len(a.Body))
		}
	}
	if len(seen) != 21 || failures != 0 {
		t.Errorf("%v, %d failures left", seen, failures)
	}
	// What comes while nobody runs waits, and what was handled does not come again.
	s.store(ok(identity("later"), `[2]`))
	if got := collect(t, s.subscriber("files"), fetchworker.ResultFilter{Final: true}, 1, well); len(got) == 1 && got[0].Identity.ID != "later" {
		t.Errorf("%s came again", got[0].Identity.ID)
	}
}

// A subscriber that ends in the moment a message comes leaves it to nobody's
// AckWait: the next gets it at once.
func TestASubscriberThatEndsHandsBack(t *testing.T) {
	s := startService(t)
	const n = 300
	var stored sync.WaitGroup
	stored.Go(func() {
		for i := range n {
			s.store(ok(identity(fmt.Sprint("q-", i)), `[1]`))
			time.Sleep(time.Millisecond)
		}
	})
	var mu sync.Mutex
	seen := map[string]bool{}
	start := time.Now()
	for ends := 0; ; ends++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(ends%7)*time.Millisecond+10*time.Millisecond)
		err := s.subscriber("hurried").Subscribe(ctx, fetchworker.ResultFilter{}, func(_ context.Context, a fetchworker.Answer) error {
			mu.Lock()
			defer mu.Unlock()
			seen[a.Identity.ID] = true
			return nil
		})
		cancel()
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		mu.Lock()
		all := len(seen) == n
		mu.Unlock()
		if all {
			break
		}
		if time.Since(start) > 15*time.Second {
			t.Fatalf("%d of %d after %d ends", len(seen), n, ends)
		}
	}
	stored.Wait()
}

func TestASubscriberFilters(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startService(t)
	bobs := identity("b")
	bobs.Agent = "bob"
	s.store(ok(bobs, `[1]`))
	s.store(ok(identity("a"), `[1]`))
	s.store(waiting(identity("w")))
	s.store(failed(identity("f")))
	for name, c := range map[string]struct {
		f    fetchworker.ResultFilter
		want string
	}{
		"agent":  {fetchworker.ResultFilter{Agent: "bob"}, "b"},
		"status": {fetchworker.ResultFilter{Status: []fetchworker.Status{fetchworker.StatusWaiting}}, "w"},
		"final":  {fetchworker.ResultFilter{Agent: "alice", Final: true, Status: []fetchworker.Status{fetchworker.StatusFailed}}, "f"},
	} {
		if got := collect(t, s.subscriber(name), c.f, 1, well); len(got) == 1 && got[0].Identity.ID != c.want {
			t.Errorf("%s: %s", name, got[0].Identity.ID)
		}
	}
	time.Sleep(10 * time.Millisecond)
	since := time.Now()
	s.store(ok(identity("new"), `[1]`))
	if got := collect(t, s.subscriber("since"), fetchworker.ResultFilter{Since: since}, 1, well); len(got) == 1 && got[0].Identity.ID != "new" {
		t.Errorf("since: %s", got[0].Identity.ID)
	}
	if err := s.subscriber("agent").Subscribe(soon(t), fetchworker.ResultFilter{}, nil); err == nil {
		t.Error("one consumer for two filters")
	}
	var wrong *fetchworker.RequestError
	if err := s.subscriber("x").Subscribe(soon(t), fetchworker.ResultFilter{Provider: "*"}, nil); !errors.As(err, &wrong) {
		t.Errorf("a wildcard: %v", err)
	}
}

func TestASubscriberIsNotFloodedByItsBacklog(t *testing.T) {
	s := startService(t)
	for i := range 50 {
		s.store(ok(identity(fmt.Sprint("q-", i)), `[1]`))
	}
	nc := s.Connect(t)
	defer nc.Close()
	sub, err := fetchworker.NewSubscriber(nc, fetchworker.SubscriberOptions{Durable: "slow", Parallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var mu sync.Mutex
	running, most, done := 0, 0, 0
	err = sub.Subscribe(ctx, fetchworker.ResultFilter{}, func(context.Context, fetchworker.Answer) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		running--
		if done++; done == 50 {
			cancel()
		}
		return nil
	})
	if err != nil || most > 2 || done != 50 {
		t.Errorf("%d at once, %d done, %v", most, done, err)
	}
}

func TestEventsComeToo(t *testing.T) {
	s := startService(t)
	event := `{"specversion":"1.0","id":"e-1","source":"/fetch/fmp","type":"fetch.circuit","time":"2026-02-13T21:00:00Z","data":{"state":"open"}}`
	if _, err := s.JS.Publish(t.Context(), "fetch.event.circuit.fmp", []byte(event)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.JS.Publish(t.Context(), "fetch.event.budget.fred", []byte(event)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []fetchworker.Event
	err := s.subscriber("events").Events(ctx, fetchworker.EventFilter{Kind: "circuit"}, func(_ context.Context, e fetchworker.Event) error {
		got = append(got, e)
		cancel()
		return nil
	})
	var data struct {
		State string `json:"state"`
	}
	if err != nil || len(got) != 1 || got[0].Provider != "fmp" || got[0].Kind != "circuit" || json.Unmarshal(got[0].Data, &data) != nil || data.State != "open" {
		t.Errorf("%+v %v", got, err)
	}
}
