package cache_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/cache"
	"fetchworker/internal/memory"

	"go.uber.org/zap"
)

// Whoever waits with a light entry keeps nobody from the memory of its body:
// not even himself, when the provider sends it anew.
func TestALightEntryHoldsNoMemory(t *testing.T) {
	b := brokertest.Start(t)
	budget := memory.New(4 << 20)
	c, err := cache.New(b.JS, b.JS, budget, zap.NewNop(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	room, err := budget.Reserve(t.Context(), 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	body := room.Make(3 << 20)[:3<<20]
	room.Close()
	for i := range body { // more than the bucket keeps
		body[i] = byte(rand.Uint32())
	}
	c.Put("key", &cache.Entry{Body: body, ETag: "e", FetchedAt: time.Now()})
	small := &cache.Entry{Body: []byte("small")}
	if small.Light() != small || c.Whole(t.Context(), "other", small, nil) != small {
		t.Error("a small one was made light")
	}
	light := c.AtHand("key").Light()
	if len(light.Body) > 0 || light.ETag != "e" {
		t.Errorf("%d bytes, %q", len(light.Body), light.ETag)
	}
	if whole := c.Whole(t.Context(), "key", light, nil); whole == nil || &whole.Body[0] != &body[0] {
		t.Error("its body is not back")
	}
	c.Refuse("key", light)
	if mine := c.AtHand("key"); !mine.Refused() || len(mine.Body) == 0 {
		t.Error("its validators are not refused")
	}
	body = nil //nolint:wastedassign // the collector may have it now
	// The write is behind: nobody runs it here. What it holds is not the
	// holder's doing, so it is taken out.
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() { c.Run(ctx) })
	defer writing.Wait()
	defer stop()
	room, err = budget.Reserve(t.Context(), 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer room.Close()
	if c.Whole(t.Context(), "key", light, nil) != nil || c.Unchanged(t.Context(), "key", light, nil) != nil {
		t.Error("a body is back that was given up")
	}
}
