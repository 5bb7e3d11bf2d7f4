package sweep_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/sweep"

	"github.com/nats-io/nats.go/jetstream"
)

// TestWhatAnAgentHasBeyondItsBacklogIsAnswered spreads one agent's requests
// over lanes, operations and providers, where no single subject is full: the
// newest are answered within five seconds, the others and a neighbour's wait on.
func TestWhatAnAgentHasBeyondItsBacklogIsAnswered(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		for _, p := range []string{"fmp", "polygon"} {
			f.Serve(p)
		}
		f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
			return sweep.New(js, log, f.Board, sweep.Config{MaxLife: f.MaxLife, Backlog: 100, Logger: f.Logger()}).Run
		})
		neighbour := f.Request("fmp", "batch", `{"id":"neighbour"}`)
		var ids []fetchworker.Identity
		for i := range 150 {
			i := fetchworker.Identity{Provider: []string{"fmp", "polygon"}[i%2], Operation: fmt.Sprint("op", i%7), Agent: "flood", ID: fmt.Sprint("f-", i)}
			lane := []fetchworker.Lane{fetchworker.LaneBatch, fetchworker.LaneInteractive}[len(ids)%3%2]
			if _, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject(i.Provider, lane, i.Operation, i.Agent), fmt.Appendf(nil, `{"id":%q}`, i.ID)); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, i)
		}
		answered := func() (n int) {
			for _, id := range ids {
				if a, ok := f.Answer(id); ok && a.Final {
					n++
				}
			}
			return n
		}
		f.Eventually(5*time.Second, "what is beyond is answered", func() bool { return answered() == 50 })
		time.Sleep(10 * time.Second)
		for n, id := range ids {
			a, ok := f.Answer(id)
			if beyond := n >= 100; ok != beyond {
				t.Errorf("request %d is answered: %t", n, ok)
			} else if beyond && (a.Problem.Code() != "backlog_full" || a.Problem.Status != 429 || !a.Final) {
				t.Errorf("request %d: %+v %+v", n, a, a.Problem)
			}
		}
		if _, ok := f.Answer(neighbour); ok {
			t.Error("a neighbour's request was answered for it")
		}
		if n := f.Count(fetchworker.StreamRequests, ">"); n != 101 {
			t.Errorf("%d wait, want 101", n)
		}
		f.Accepted = nil
	})
}

// TestOneAgentOrProviderLeavesHalfOfTheQueue fills the queue with large
// requests: what one has beyond half of it is answered, and others get in.
func TestOneAgentOrProviderLeavesHalfOfTheQueue(t *testing.T) {
	for name, agent := range map[string]func(int) string{
		"agent":    func(int) string { return "flood" },
		"provider": func(i int) string { return fmt.Sprint("agent-", i) },
	} {
		t.Run(name, func(t *testing.T) {
			dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
				f.Serve("fmp")
				s, err := f.JS.Stream(f.Ctx, fetchworker.StreamRequests)
				if err != nil {
					t.Fatal(err)
				}
				config := s.CachedInfo().Config
				config.MaxBytes = 4 << 20
				if _, err := f.JS.UpdateStream(f.Ctx, config); err != nil {
					t.Fatal(err)
				}
				f.Start(nil, func(js jetstream.JetStream, log *record.Log) dlqtest.Daemon {
					return sweep.New(js, log, f.Board, sweep.Config{MaxLife: f.MaxLife, Backlog: 20_000, Logger: f.Logger()}).Run
				})
				accepted := 0
				for i := range 100 { // 50 KB each: 5 MB
					body := fmt.Appendf(nil, `{"id":"f-%d","params":{"symbol":"%050000d"}}`, i, 0)
					_, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject("fmp", "batch", fmt.Sprint("op", i%9), agent(i)), body)
					if err == nil {
						accepted++
					}
					if name == "agent" && i%10 == 9 && i < 70 { // who asks a little, in between
						f.Request("fmp", "batch", fmt.Sprintf(`{"id":"n-%d"}`, i))
					}
				}
				if accepted < 60 {
					t.Fatalf("only %d of 100 were accepted", accepted)
				}
				f.Eventually(5*time.Second, "half of the queue is free", func() bool {
					info, err := s.Info(f.Ctx)
					return err == nil && info.State.Bytes <= 2<<20+50<<10
				})
				for i := range 10 {
					if _, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject("polygon", "batch", "aggregates", "bob"), fmt.Appendf(nil, `{"id":"b-%d"}`, i)); err != nil {
						t.Errorf("another's publish: %v", err)
					}
				}
				time.Sleep(10 * time.Second)
				for _, id := range f.Accepted {
					if a, ok := f.Answer(id); ok && id.Agent == "alice" {
						t.Errorf("%s did nothing, and is answered %s", id, a.Problem.Code())
					}
				}
				full := 0
				for i := range 100 {
					a, ok := f.Answer(fetchworker.Identity{Provider: "fmp", Operation: fmt.Sprint("op", i%9), Agent: agent(i), ID: fmt.Sprint("f-", i)})
					if ok && a.Problem.Code() == "backlog_full" {
						full++
					}
				}
				if full < accepted-45 {
					t.Errorf("%d of %d were answered", full, accepted)
				}
				f.Accepted = nil
			})
		})
	}
}

// TestTheStreamRefusesWhatOneSubjectHasBeyondTheBacklog: at the publish, where
// it can be seen.
func TestTheStreamRefusesWhatOneSubjectHasBeyondTheBacklog(t *testing.T) {
	var most int64
	for _, c := range broker.Streams(broker.Options{AgentBacklog: 50}) {
		if c.Name == fetchworker.StreamRequests {
			most = c.MaxMsgsPerSubject
		}
	}
	if most != 50 {
		t.Errorf("%d messages a subject", most)
	}
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		s, err := f.JS.Stream(f.Ctx, fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		if config.MaxMsgsPerSubject != broker.StandardAgentBacklog || !config.DiscardNewPerSubject {
			t.Errorf("%+v", config)
		}
		config.MaxMsgsPerSubject = 50
		if _, err := f.JS.UpdateStream(f.Ctx, config); err != nil {
			t.Fatal(err)
		}
		refused := 0
		for i := range 60 {
			_, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject("fmp", "batch", "quote", "flood"), fmt.Appendf(nil, `{"id":"f-%d"}`, i))
			var api *jetstream.APIError
			if errors.As(err, &api) && api.ErrorCode == 10077 {
				refused++
			}
		}
		if _, err := f.JS.Publish(f.Ctx, fetchworker.RequestSubject("fmp", "batch", "quote", "alice"), []byte(`{"id":"a"}`)); refused != 10 || err != nil {
			t.Errorf("%d were refused; another's: %v", refused, err)
		}
		f.Accepted = nil
	})
}
