package intake_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/intake"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// taker is an intake for one provider that acknowledges whatever comes, or
// gives it to whoever wants it.
type taker struct {
	mu     sync.Mutex
	came   map[string]time.Duration // since it was stored, by agent
	remade []string
	stop   func()
	refuse atomic.Bool // no consumer can be made or found
	says   atomic.Bool // and the server says so: it has no leader
}

func take(t *testing.T, b *brokertest.Broker, rest time.Duration, deliver func(*intake.Shard, intake.Message, *nats.MsgMetadata)) *taker {
	t.Helper()
	var shards []*intake.Shard
	k := &taker{came: map[string]time.Duration{}}
	for index := range wire.Shards {
		config := broker.RequestConsumer("fmp", fetchworker.LaneBatch, index, 16)
		s := intake.Requests("fmp", config.Durable, fetchworker.LaneBatch, index, func() float64 { return 1000 })
		s.Make = func(ctx context.Context) (time.Time, bool, error) {
			if k.refuse.Load() && k.says.Load() {
				return time.Time{}, false, fmt.Errorf("made: %w", &jetstream.APIError{Code: 503, ErrorCode: 10008})
			}
			if k.refuse.Load() { // as an election does
				_ = wait.For(ctx, 1500*time.Millisecond)
				return time.Time{}, false, context.DeadlineExceeded
			}
			return broker.MakeConsumer(ctx, b.JS, config)
		}
		shards = append(shards, s)
	}
	in := intake.New(b.JS, rest, shards)
	in.Complain = func(_ *intake.Shard, err error) { t.Log(err) }
	in.Remade = func(s *intake.Shard) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.remade = append(k.remade, s.Consumer)
	}
	in.Deliver = func(s *intake.Shard, m intake.Message, meta *nats.MsgMetadata) {
		a, err := wire.ParseSubject(m.Subject())
		if err != nil || a.Shard != s.Index {
			t.Errorf("%s came to shard %d: %v", m.Subject(), s.Index, err)
		}
		k.mu.Lock()
		k.came[a.Agent] = time.Since(meta.Timestamp)
		k.mu.Unlock()
		s.Start()
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
		s.End()
	}
	if deliver != nil {
		in.Deliver = deliver
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	k.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return k
}

// within checks that an agent's message came in time.
func (k *taker) within(t *testing.T, agent string, most time.Duration) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if took, came := k.came[agent]; !came || took > most {
		t.Errorf("%s: came %v, after %v", agent, came, took)
	}
}

func ask(t *testing.T, b *brokertest.Broker, agent string) {
	t.Helper()
	if _, err := b.JS.Publish(t.Context(), fetchworker.RequestSubject("fmp", fetchworker.LaneBatch, "quote", agent), []byte("{}")); err != nil {
		t.Fatal(err)
	}
}

// A consumer that is deleted while it is asked is made again and told; one that
// rests is not missed. Neither keeps anybody waiting for two seconds.
func TestAConsumerThatIsDeletedIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		k := take(t, b, intake.RestAfter, nil)
		defer k.stop()
		time.Sleep(2 * time.Second)
		for round := range 3 {
			agent := fmt.Sprint("agent-", round)
			ask(t, b, agent)
			time.Sleep(time.Second)
			k.within(t, agent, 100*time.Millisecond)
			stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
			if err != nil {
				t.Fatal(err)
			}
			for name := range stream.ConsumerNames(t.Context()).Name() {
				if err := stream.DeleteConsumer(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			ask(t, b, agent+"-again")
			time.Sleep(3 * time.Second)
			k.within(t, agent+"-again", 2*time.Second)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if len(k.remade) < 3 {
			t.Errorf("told of %v", k.remade)
		}
	})
}

// What was stored before there was an intake, or between two, is found.
func TestWhatCameBetweenIsFound(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		k := take(t, b, intake.RestAfter, nil)
		ask(t, b, "before")
		time.Sleep(5 * time.Second)
		k.within(t, "before", time.Second)
		k.stop()
		ask(t, b, "between")
		time.Sleep(time.Minute)
		k = take(t, b, intake.RestAfter, nil)
		defer k.stop()
		time.Sleep(2 * time.Second)
		k.within(t, "between", time.Minute+2*time.Second)
	})
}

// An election hides that a consumer could not be made, or somebody says that it
// has no leader. It is tried again until it has: what is asked meanwhile nobody
// hears, and nobody refuses.
func TestAConsumerIsMadeAsSoonAsItCanBe(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		k := take(t, b, intake.RestAfter, nil)
		defer k.stop()
		time.Sleep(2 * time.Second)
		for _, election := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 7 * time.Second, 20 * time.Second} {
			for says, beyond := range map[bool]time.Duration{false: 800 * time.Millisecond, true: 500 * time.Millisecond} {
				k.says.Store(says)
				k.refuse.Store(true)
				if election > 10*time.Second && !says {
					beyond = 2 * time.Second // longer than any
				}
				agent := fmt.Sprintf("agent-%v-%t", election, says)
				ask(t, b, agent)
				time.Sleep(election)
				k.refuse.Store(false)
				time.Sleep(3 * time.Second)
				k.within(t, agent, election+beyond)
				time.Sleep(2 * intake.RestAfter)
			}
		}
	})
}

// Of a lane with much traffic only the shards are heard that rest: a busy one's
// messages are told to nobody, and none is woken that nothing came for. Whoever
// comes new finds its shard awake at once, on the busy lane and after it.
func TestABusyLaneIsHeardWhereItRests(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		k := take(t, b, 5*time.Second, nil)
		defer k.stop()
		consumers := func() int {
			stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
			if err != nil {
				t.Fatal(err)
			}
			return stream.CachedInfo().State.Consumers
		}
		time.Sleep(2 * time.Second)
		ears := b.NC.NumSubscriptions()
		for round := range 2 {
			for range 40 {
				ask(t, b, "busy")
			}
			time.Sleep(1500 * time.Millisecond)
			if n := consumers(); round == 0 && n != 1 { // the server keeps those of before for a while
				t.Errorf("%d consumers for one busy agent", n)
			}
			const n = 100
			before := b.NC.Stats().InMsgs
			for range n {
				ask(t, b, "busy")
			}
			time.Sleep(time.Second)
			if told := b.NC.Stats().InMsgs - before; told > 2*n+n/4 { // the ack of the publish, and the message
				t.Errorf("round %d: %d messages for %d requests", round, told, n)
			}
			for i := range 30 {
				agent := fmt.Sprintf("agent-%d-%d", round, i)
				ask(t, b, "busy")
				ask(t, b, agent)
				time.Sleep(100 * time.Millisecond)
				k.within(t, agent, 50*time.Millisecond)
			}
			time.Sleep(10 * time.Second)
			if round == 0 {
				continue
			}
			time.Sleep(30 * time.Second) // the open pulls end
			if n := b.NC.NumSubscriptions(); n != ears {
				t.Errorf("round %d: %d subscriptions at rest, %d before", round, n, ears)
			}
		}
	})
}
