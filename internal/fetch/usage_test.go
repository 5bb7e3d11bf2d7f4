package fetch_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget/store"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// counted reads every counter of the ledger, by what follows fetch.
func (r *rig) counted() map[string]int64 {
	r.t.Helper()
	stream, err := r.b.JS.Stream(context.Background(), wire.StreamUsage)
	if err != nil {
		r.t.Fatal(err)
	}
	info := stream.CachedInfo().State
	found := map[string]int64{}
	for seq := info.FirstSeq; seq > 0 && seq <= info.LastSeq; seq++ {
		m, err := stream.GetMsg(context.Background(), seq)
		if err != nil {
			continue // replaced by its next total
		}
		n, err := store.Total(m.Data)
		if err != nil {
			r.t.Fatal(err)
		}
		found[strings.TrimPrefix(m.Subject, "fetch.")] = n
	}
	return found
}

// The ledger says what each agent had, by day, and adds up to what the
// provider saw: also over a kill of a worker that has nothing in flight.
func TestTheLedgerAddsUpToWhatTheProviderCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, `[{"symbol":"X","price":1}]`)
			if strings.Contains(q.URL.Path, "GONE") {
				step = providertest.JSON(404, `{"error":"no such symbol"}`)
			}
			return &step
		}
		stop := r.start(nil)
		for i := range 5 {
			r.final(r.quote("alice", fmt.Sprint("a", i), fmt.Sprint("S", i), ""), 10*time.Second)
		}
		r.final(r.quote("bob", "b1", "S1", `,"max_age":"10m"`), 10*time.Second) // cached
		r.final(r.quote("bob", "b2", "GONE", ""), 10*time.Second)
		time.Sleep(time.Second)
		day := time.Now().UTC().Format(time.DateOnly)
		got := r.counted()
		want := map[string]int64{
			"usage.fmp.alice." + day + ".calls": 5, "usage.fmp.alice." + day + ".ok": 5,
			"usage.fmp.bob." + day + ".calls": 1, "usage.fmp.bob." + day + ".cached": 1, "usage.fmp.bob." + day + ".failed": 1,
			"cause.fmp.quote." + day + ".permanent-404": 1,
		}
		for subject, n := range want {
			if got[subject] != n {
				t.Errorf("%s is %d, want %d", subject, got[subject], n)
			}
		}
		var bytes int64
		for subject, n := range got {
			if strings.HasSuffix(subject, ".bytes") {
				bytes += n
			} else if _, expected := want[subject]; !expected {
				t.Errorf("%s is counted: %d", subject, n)
			}
		}
		if int(bytes) != r.bytesUsed() {
			t.Errorf("%d bytes in the ledger, %d in the month's counter", bytes, r.bytesUsed())
		}
		// A call that was never on the wire is nobody's.
		r.upstream.SetDown(true)
		r.quote("dave", "down", "DOWN", "")
		time.Sleep(2 * time.Second)
		r.upstream.SetDown(false)
		if got := r.counted(); got["usage.fmp.dave."+day+".calls"] != 0 || got["cause.fmp.quote."+day+".transient-network"] != 1 {
			t.Errorf("of a call that could not be made: %v", got)
		}
		// What the last half second brought is written at the stop.
		r.final(r.quote("alice", "last", "LAST", ""), 10*time.Second)
		stop()
		if n := r.counted()["usage.fmp.alice."+day+".calls"]; n != 6 || len(r.upstream.Calls()) != 7 {
			t.Errorf("after the stop %d calls of alice, and %d made", n, len(r.upstream.Calls()))
		}
	})
}

// Whoever ends a request without what was asked for counts it, and it is
// counted once: what a worker refuses, and what a replayer takes to review.
func TestEveryFailureIsCountedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = func(q *http.Request) *providertest.Step {
			step := providertest.JSON(200, `[{"symbol":"X","price":1}]`)
			switch {
			case strings.Contains(q.URL.Path, "BROKEN"):
				step = providertest.JSON(500, `{"error":"no"}`)
			case strings.Contains(q.URL.Path, "GONE"):
				step = providertest.JSON(404, `{"error":"no such symbol"}`)
			}
			return &step
		}
		defer r.startReplayer(nil)()
		defer r.start(nil)()
		broken, gone := r.quote("alice", "broken", "BROKEN", ""), r.quote("bob", "gone", "GONE", "")
		for i := range 20 { // others' calls succeed meanwhile, so it is the request
			r.final(r.quote("carol", fmt.Sprint("c", i), fmt.Sprint("S", i), ""), 10*time.Second)
			time.Sleep(2 * time.Second)
		}
		r.final(broken, 5*time.Minute)
		r.final(gone, time.Minute)
		r.drained(wire.StreamDLQ, 0, time.Minute)
		time.Sleep(2 * time.Second)
		day := time.Now().UTC().Format(time.DateOnly)
		got := r.counted()
		for _, agent := range []string{"alice", "bob"} {
			if n := got["usage.fmp."+agent+"."+day+".failed"]; n != 1 {
				t.Errorf("%d failures of %s are counted", n, agent)
			}
		}
	})
}
