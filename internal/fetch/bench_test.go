package fetch_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
)

// costs is what requests cost a worker that has no limit.
type costs struct {
	messages float64 // sent to NATS per request: pulls, reads, writes, acks
	allocs   float64
	bytes    float64
	each     time.Duration
}

// measure has one worker answer n requests of many agents, each a call of
// its own to a played provider in memory.
func measure(t *testing.T, r *rig, n int, prefix string) costs {
	t.Helper()
	ids := r.many(fetchworker.LaneInteractive, prefix, n, agents(64)...)
	nc, stop := r.startWorker(nil)
	defer stop()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sent, start := nc.Stats().OutMsgs, time.Now()
	for r.count(fetchworker.StreamRequests) > 0 {
		time.Sleep(20 * time.Millisecond)
	}
	took, out := time.Since(start), nc.Stats().OutMsgs-sent
	runtime.ReadMemStats(&after)
	for _, id := range ids {
		if a, ok := r.answer(id); !ok || a.Status != fetchworker.StatusOK {
			t.Fatalf("%s: %+v", id, a)
		}
	}
	return costs{
		messages: float64(out) / float64(n), each: took / time.Duration(n),
		allocs: float64(after.Mallocs-before.Mallocs) / float64(n), bytes: float64(after.TotalAlloc-before.TotalAlloc) / float64(n),
	}
}

// What a request may cost at the most. These are counts and not times, so they
// are the same on a slow machine. Whoever makes one grow changes it here, and
// says why.
const (
	mostMessages = 4.1  // to NATS: the answer, the ack, the cache write, and its share of looks and pulls: 0.3 on a quiet machine, 0.8 on a starved one
	mostAllocs   = 365  // the server's and the stand-in's included, which are more than half of them: 306 to 321 on a starved machine
	mostBytes    = 46e3 // allocated, the same: 39 to 41
	mostDialled  = 60   // connections a thousand calls, sixteen at a time: 9 on a quiet machine, 36 on a starved one; a permit that lapses closes one
)

// TestWhatARequestCosts holds the cost of a request where it is. Two of its
// messages are round trips that it waits for: the look into the cache, which
// it shares with others, and the answer. Byte counts and limits add nothing.
func TestWhatARequestCosts(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector has costs of its own")
	}
	r := newRig(t, t.TempDir(), providertest.Pipe("upstream.test"))
	defer r.close()
	r.well()
	var dialled atomic.Int64
	r.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		return r.upstream.DialContext(ctx, network, addr)
	}
	const n = 2000
	c := measure(t, r, n, "M")
	each := float64(dialled.Load()) * 1000 / n
	t.Logf("%.2f messages, %.0f allocations, %.0f bytes and %v a request; %.0f connections a thousand", c.messages, c.allocs, c.bytes, c.each, each)
	for _, cost := range []struct {
		what      string
		got, most float64
	}{
		{"messages to NATS a request", c.messages, mostMessages},
		{"allocations a request", c.allocs, mostAllocs},
		{"bytes allocated a request", c.bytes, mostBytes},
		{"connections dialled a thousand calls", each, mostDialled},
	} {
		if cost.got > cost.most {
			t.Errorf("%s: %.2f, want at most %v", cost.what, cost.got, cost.most)
		}
	}
}

// BenchmarkRequest is the whole path of one request: worker, embedded server
// with the lazy sync, and a provider in memory.
func BenchmarkRequest(b *testing.B) {
	b.ReportAllocs()
	t := new(testing.T)
	r := newRig(t, b.TempDir(), providertest.Pipe("upstream.test"))
	defer r.close()
	r.well()
	c := measure(t, r, b.N, fmt.Sprint("B", b.N))
	b.ReportMetric(c.messages, "msgs/op")
}

// BenchmarkPut is one answer stored by compare-and-set.
func BenchmarkPut(b *testing.B) {
	t := new(testing.T)
	r := newRig(t, b.TempDir(), providertest.Pipe("upstream.test"))
	defer r.close()
	log := record.New(r.b.JS, nil)
	b.ReportAllocs()
	for i := range b.N {
		id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint("p", i)}
		a := fetchworker.Answer{Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: 1, Body: []byte(aapl)}
		slot := record.Slot{Stream: fetchworker.StreamResults, Subject: fetchworker.ResultSubject(id), Order: record.Answers}
		if _, err := log.Put(b.Context(), slot, a.Encode()); err != nil {
			b.Fatal(err)
		}
	}
}
