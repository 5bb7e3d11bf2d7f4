package fetch_test

import (
	"fmt"
	"testing"
	"time"

	"fetchworker"
)

// TestAUsedIDCostsNothing asks again under ids whose final answers stand, with
// the same parameters and others, fresh at any price, with the circuit closed
// and open: no call, no permit, no bytes, and the old answer at reply_to.
func TestAUsedIDCostsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "60"
		defer r.start(nil)()
		for i := range 5 {
			r.final(r.quote("alice", fmt.Sprint("q", i), fmt.Sprint("S", i), ""), 5*time.Second)
		}
		time.Sleep(2 * time.Minute)
		before := len(r.upstream.Calls())
		bytes, left := r.bytesUsed(), r.serving[0].Gate.State().Left
		replies, err := r.b.NC.SubscribeSync("fetch.reply.alice.x")
		if err != nil {
			t.Fatal(err)
		}
		for round := range 20 {
			for i := range 5 {
				r.quote("alice", fmt.Sprint("q", i), fmt.Sprint("OTHER", i, round%2), `,"max_age":"0s","reply_to":"fetch.reply.alice.x"`)
			}
		}
		for range 100 {
			m, err := next(replies, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			a, err := fetchworker.DecodeAnswer("", m.Header, m.Data)
			if err != nil || a.Status != fetchworker.StatusOK || a.Digest == "" {
				t.Fatalf("%+v %v", a, err)
			}
		}
		r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
		if n := len(r.upstream.Calls()) - before; n != 0 {
			t.Errorf("%d calls for used ids", n)
		}
		if now := r.serving[0].Gate.State().Left; now < left || r.bytesUsed() != bytes {
			t.Errorf("permits left %d, then %d; bytes %d, then %d", left, now, bytes, r.bytesUsed())
		}
		// One without an id of its own, and a new one, are called.
		r.ask("fetch.request.fmp.interactive.quote.alice", "", `{"params":{"symbol":"NONE"}}`)
		r.final(r.quote("alice", "new", "NEW", ""), 5*time.Second)
		r.drained(fetchworker.StreamRequests, 0, 10*time.Second)
		if n := len(r.upstream.Calls()) - before; n != 2 {
			t.Errorf("%d calls for two new requests", n)
		}
	})
}
