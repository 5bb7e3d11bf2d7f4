package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// submitMany asks for many quotes of an agent at once.
func (f *fleet) submitMany(agent string, n int) {
	f.t.Helper()
	var publishing errgroup.Group
	publishing.SetLimit(32)
	for i := range n {
		publishing.Go(func() error {
			return f.ask(fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: agent}, fmt.Sprint(agent, "X", i))
		})
	}
	if err := publishing.Wait(); err != nil {
		f.t.Fatal(err)
	}
}

// cancelAll has everything of an agent cancelled, and tells when the reply was
// there and how long it took.
func (f *fleet) cancelAll(agent string) (replied time.Time, took time.Duration) {
	f.t.Helper()
	c, err := f.agent(agent)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	asked := time.Now()
	if _, err := c.CancelAll(ctx, fetchworker.CancelFilter{Provider: "fmp"}); err != nil {
		f.t.Fatal(err)
	}
	return time.Now(), time.Since(asked)
}

// orders counts the orders that an agent gives until it is asked for.
func (f *fleet) orders(agent string) func() int {
	f.t.Helper()
	heard, err := f.js.Conn().SubscribeSync("fetch.cancel.*." + agent)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.js.Conn().Flush(); err != nil {
		f.t.Fatal(err)
	}
	return func() int {
		defer func() { _ = heard.Unsubscribe() }()
		if err := f.js.Conn().Flush(); err != nil {
			f.t.Fatal(err)
		}
		n, _, err := heard.Pending()
		if err != nil {
			f.t.Fatal(err)
		}
		return n
	}
}

// heardOf is how long the reply to an order may take that was given so often: the
// workers' time, and what a client waits for those who stand still, of whom
// any order may find one.
func heardOf(given int) time.Duration {
	all := 10 * time.Second
	for try := 1; try < given; try++ {
		all += min(3*time.Second<<(try-1), 12*time.Second) + min(time.Duration(try)*200*time.Millisecond, 2*time.Second)
	}
	return all
}

// noCallAfter checks that no call of an agent came after a moment, at which
// some were on the wire.
func (f *fleet) noCallAfter(agent string, replied time.Time) {
	f.t.Helper()
	const onTheWire = 50 * time.Millisecond
	for _, c := range f.upstream.Calls() {
		if strings.HasPrefix(path.Base(c.Target), agent+"X") && c.At.After(replied.Add(onTheWire)) {
			f.t.Errorf("%s was called %v after the reply", c.Target, c.At.Sub(replied))
		}
	}
}

// TestNoCallOfACancelledRequestBegins has agents cancel all they have asked
// for while workers are killed, join, and are frozen over the order.
func TestNoCallOfACancelledRequestBegins(t *testing.T) {
	begin(t)
	f := newFleet(t, well(20*time.Millisecond))
	f.replayer()
	workers := []*process{f.worker(), f.worker(), f.worker()}
	replied := map[string]time.Time{}
	for round := range pick(6, 60) {
		agent := fmt.Sprint("agent", round)
		f.submitMany(agent, 300)
		until(t, 30*time.Second, "some are called", func() bool { return len(f.upstream.Calls()) > round })
		pause(t, rand.N(100*time.Millisecond))
		victim := rand.N(len(workers))
		what := []string{"well", "killed", "frozen", "one joins"}[round%4]
		switch what {
		case "killed":
			workers[victim].kill()
		case "frozen":
			workers[victim].signal(t, syscall.SIGSTOP)
		case "one joins":
			workers = append(workers, f.spawn("worker"))
		}
		var took time.Duration
		orders := f.orders(agent)
		replied[agent], took = f.cancelAll(agent)
		given := orders()
		t.Logf("%s: the reply took %v, the order was given %d times", what, took, given)
		if what == "well" && took > time.Second || took > heardOf(given) {
			t.Errorf("%s: the reply took %v, the order was given %d times", what, took, given)
		}
		switch what {
		case "killed":
			workers[victim] = f.spawn("worker")
		case "frozen":
			workers[victim].signal(t, syscall.SIGCONT)
		}
		pause(t, 200*time.Millisecond)
		f.noCallAfter(agent, replied[agent])
	}
	f.settled(2 * time.Minute)
	for agent, at := range replied {
		f.noCallAfter(agent, at)
	}
	for status := range f.statuses() {
		if !slices.Contains([]string{"ok", "cancelled"}, status) {
			t.Errorf("one ended as %s", status)
		}
	}
}

func pause(t *testing.T, d time.Duration) {
	t.Helper()
	if err := wait.For(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// TestOneOrderCancelsTheQueuedAndTheParked cancels as many requests in the
// queue as there are letters, and counts how they ended.
func TestOneOrderCancelsTheQueuedAndTheParked(t *testing.T) {
	begin(t)
	n := pick(1000, 10_000)
	f := newFleet(t, well(time.Millisecond))
	f.env["FMP_REQUESTS_PER_MINUTE"] = "60"
	f.replayer()
	f.worker()
	f.submitMany("alice", n)
	letters := f.park(n)
	replied, took := f.cancelAll("alice")
	t.Logf("%d requests and %d letters: the reply took %v", n, n, took)
	if took > pick(2*time.Second, 100*time.Millisecond) {
		t.Errorf("the reply took %v", took)
	}
	until(t, time.Until(replied.Add(10*time.Second)), "the letters have their answers", func() bool { return f.count(wire.StreamDLQ) == 0 })
	t.Logf("the letters had their answers after %v", time.Since(replied))
	f.accepted = append(f.accepted, letters...)
	f.settled(3 * time.Minute)
	t.Logf("all was over after %v", time.Since(replied))
	f.noCallAfter("alice", replied)
	got := f.statuses()
	t.Log(got)
	if got["cancelled"] < 2*n-70 || got["cancelled"]+got["ok"] != 2*n {
		t.Errorf("%v", got)
	}
}

// park stores letters of alice that are due in an hour.
func (f *fleet) park(n int) []fetchworker.Identity {
	f.t.Helper()
	now := time.Now()
	var ids []fetchworker.Identity
	var stored []jetstream.PubAckFuture
	for i := range n {
		id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint("parked-", i)}
		l := dlq.Letter{
			Identity: id, Lane: fetchworker.LaneInteractive, Generation: 1, Calls: 1, Failures: 1,
			Body: fmt.Appendf(nil, `{"id":%q,"params":{"symbol":"aliceXP%d"}}`, id.ID, i), Class: wire.ClassTransient,
			RequestedAt: now, FailedAt: now, FirstFailedAt: now, NotBefore: now.Add(time.Hour),
		}
		ack, err := f.js.PublishMsgAsync(l.DeadLetter())
		if err != nil {
			f.t.Fatal(err)
		}
		ids, stored = append(ids, id), append(stored, ack)
	}
	for _, ack := range stored {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			f.t.Fatal(err)
		}
	}
	return ids
}
