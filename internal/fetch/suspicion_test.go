package fetch_test

import (
	"encoding/json"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
)

// suspected is what the bucket holds against a request.
type suspected struct {
	HandedBack int      `json:"handed_back"`
	Running    []string `json:"running"`
}

// stands is what stands against a request, by its sequence.
func (r *rig) stands(sequence string) (s suspected) {
	r.t.Helper()
	if e, err := r.b.KV.Get(r.t.Context(), "suspect."+fetchworker.StreamRequests+"."+sequence); err == nil {
		if err := json.Unmarshal(e.Value(), &s); err != nil {
			r.t.Fatal(err)
		}
	}
	return s
}

// Each time that a message is handed back is written down, but for the first
// delivery, which raises no suspicion.
func TestEachHandBackIsWrittenDown(t *testing.T) {
	for lost := range 3 {
		inBubble(t, func(t *testing.T, r *rig) {
			r.well()
			r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
			stop := r.start(nil)
			r.final(r.quote("bob", "other", "OTHER", ""), 10*time.Second)
			stop()
			r.quote("alice", "q", "AAPL", "")
			r.vanish(lost)
			stop = r.start(nil)
			for deadline := time.Now().Add(15 * time.Second); !r.worker.Busy() && time.Now().Before(deadline); {
				time.Sleep(50 * time.Millisecond)
			}
			busy := r.worker.Busy()
			stop()
			if s := r.stands("2"); s.HandedBack != min(lost, 1) || !busy {
				t.Errorf("lost %d times, at hand %t: %+v", lost, busy, s)
			}
		})
	}
}

// An outage of the server at the end of a lone run is no death: that it came back
// is written down as soon as it can be, also by a worker that stops.
func TestALoneRunThatCameBackIsNoDeath(t *testing.T) {
	for _, stops := range []bool{false, true} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.well()
			r.start(nil)()
			r.quote("alice", "q", "AAPL", "")
			r.vanish(5)
			r.upstream.SetLatency(3 * time.Second)
			r.wire = &brokertest.Wire{}
			raised, unwatch := r.running()
			defer unwatch()
			stop := r.start(nil)
			for deadline := time.Now().Add(20 * time.Second); len(raised()) == 0 && time.Now().Before(deadline); {
				time.Sleep(50 * time.Millisecond)
			}
			if len(r.stands("1").Running) != 1 {
				t.Fatalf("%+v", r.stands("1"))
			}
			time.Sleep(100 * time.Millisecond)
			r.wire.Break("suspect.", brokertest.RequestLost, 1<<20, 0)
			r.drained(fetchworker.StreamRequests, 0, 20*time.Second)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				if stops {
					stop()
				}
			}()
			time.Sleep(13 * time.Second)
			r.wire.Mend()
			time.Sleep(7 * time.Second)
			<-stopped
			if s := r.stands("1"); len(s.Running) != 0 {
				t.Errorf("stops %t: %+v", stops, s)
			}
			stop()
		})
	}
}
