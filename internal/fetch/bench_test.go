package fetch_test

import (
	"fmt"
	"runtime"
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
		time.Sleep(5 * time.Millisecond)
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

// TestARequestCostsFiveMessages holds the traffic of a request where it is: a
// pull, a look into the cache, the answer, the ack, and the cache write that
// nobody waits for. Two of them are round trips that the request waits for:
// the cache and the answer. Byte counts and limits add nothing per request.
func TestARequestCostsFiveMessages(t *testing.T) {
	r := newRig(t, t.TempDir(), providertest.Pipe("upstream.test"))
	defer r.close()
	r.well()
	c := measure(t, r, 2000, "M")
	t.Logf("%.2f messages, %.0f allocations, %.0f bytes and %v a request, server and provider included", c.messages, c.allocs, c.bytes, c.each)
	const most = 5 // pulls of idle shards and heartbeats are shared by all
	if c.messages > most {
		t.Errorf("a request costs %.2f messages to NATS, want at most %v", c.messages, most)
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
