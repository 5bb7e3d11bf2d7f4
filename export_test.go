package fetchworker

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go"
)

// Held tells what a client still has to do with, when nothing moves any more in
// its bubble: nothing, between two calls.
func (c *Client) Held() string {
	synctest.Wait()
	w := c.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	held := fmt.Sprintf("%d watched, %d due, %d follow", len(w.watches), len(w.due), len(w.followers))
	if !c.bodies.left.TryAcquire(c.bodies.all) {
		return held + ", bodies are read"
	}
	c.bodies.left.Release(c.bodies.all)
	asking := refusalsOf(c.nc)
	asking.mu.Lock()
	defer asking.mu.Unlock()
	if n := len(asking.waiting); n > 0 {
		return fmt.Sprintf("%s, %d subjects are published to", held, n)
	}
	return held
}

// HeldNothing is what Held says then.
const HeldNothing = "0 watched, 0 due, 0 follow"

// Live is the client's one subscription, which is there from the first wait on.
func (c *Client) Live() *nats.Subscription {
	c.watcher.mu.Lock()
	defer c.watcher.mu.Unlock()
	return c.watcher.live
}

// Flooded has what comes live meanwhile be more than is taken.
func (c *Client) Flooded(t *testing.T, meanwhile func(context.Context)) {
	t.Helper()
	live := c.Live()
	messages, bytes, err := live.PendingLimits()
	if err != nil {
		t.Fatal(err)
	}
	if err := live.SetPendingLimits(1, 1); err != nil {
		t.Fatal(err)
	}
	c.watcher.mu.Lock()
	meanwhile(t.Context())
	_ = c.nc.Flush()
	c.watcher.mu.Unlock()
	if n, err := live.Dropped(); err != nil || n == 0 {
		t.Fatalf("%d live answers were lost, %v", n, err)
	}
	if err := live.SetPendingLimits(messages, bytes); err != nil {
		t.Fatal(err)
	}
}

// FetchAllHolding is FetchAll with so many outstanding at most, that holds so many
// bytes of what nobody has taken yet.
func (c *Client) FetchAllHolding(ctx context.Context, requests iter.Seq[Request], most, holds int) iter.Seq2[Answer, error] {
	return c.fetchAll(ctx, requests, most, holds)
}

// Remembered is how many answers those who follow remember that they told.
func (c *Client) Remembered() (n int) {
	synctest.Wait()
	c.watcher.mu.Lock()
	defer c.watcher.mu.Unlock()
	for f := range c.watcher.followers {
		n += len(f.seen)
	}
	_ = c.nc.Status() // whoever follows reads again by the same connection, and so after this
	return n
}

// Overrun says that more came live than is held for one who follows.
func (c *Client) Overrun() bool {
	c.watcher.mu.Lock()
	defer c.watcher.mu.Unlock()
	for f := range c.watcher.followers {
		if f.lost.Load() {
			return true
		}
	}
	return false
}

// Handle is what a subscriber does with a message.
func (s *Subscriber) Handle(ctx context.Context, m *nats.Msg, take func(context.Context, *nats.Msg) error) {
	s.handle(ctx, m, take)
}
