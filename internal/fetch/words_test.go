package fetch_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestEveryHeaderIsPrintableASCII: whatever a provider, an agent says, every
// header of every message on the server can be read by any client, and the
// provider's words reach the agent as they were.
func TestEveryHeaderIsPrintableASCII(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const words = "your plan’s limit – “basic” – 日本語 \U0001d54f"
		r.circuit = 0
		r.upstream.Fallback = func(req *http.Request) *providertest.Step {
			step := providertest.JSON(500, `{"Error Message":"`+words+`"}`)
			if strings.Contains(req.URL.Path, "MSFT") {
				step = providertest.JSON(200, aapl)
				step.Header = http.Header{"Content-Type": {"application/json; profile=\"é’\""}, "Etag": {`"é"`}}
			}
			return &step
		}
		var mu sync.Mutex
		seen := map[string]int{}
		nc := r.b.Connect(t)
		_, err := nc.Subscribe(">", func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			for key, values := range m.Header {
				for _, value := range values {
					seen[key]++
					// What the server tells workers, or answers to a look, names the
					// subject as its agent did.
					servers := strings.HasPrefix(m.Subject, wire.Queued("")) || key == "Nats-Subject" && strings.HasPrefix(m.Subject, nats.InboxPrefix)
					if strings.Trim(value, printableASCII) != "" && !servers {
						t.Errorf("%s: %s: %q", m.Subject, key, value)
					}
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		flush(nc)
		stop := r.whole(1, 1)
		failed, good := r.quote("alice", "q", "AAPL", ""), r.quote("alice", "good", "MSFT", "")
		r.ask("fetch.request.fmp.interactive.quote.zoë", "odd", `{"params":{"symbol":"é"}}`)
		r.quote("alice", "bad", "é’", "")
		time.Sleep(500 * time.Millisecond)
		if raw, ok := r.letter(fetchworker.LaneInteractive, failed); !ok {
			t.Error("no letter")
		} else if l := dlq.Read(raw.Subject, raw.Header, raw.Data); !strings.Contains(l.Error, words) || !strings.Contains(l.History[0].Error, words) {
			t.Errorf("the letter says %q", l.Error)
		}
		if a := r.final(failed, time.Minute); !strings.Contains(a.Problem.Detail, words) {
			t.Errorf("the answer says %q", a.Problem.Detail)
		}
		if a := r.final(good, time.Second); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
		r.drained(wire.StreamReview, 1, time.Second)
		stop()
		nc.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, key := range []string{wire.HeaderError, wire.HeaderHistory, wire.HeaderContentType, "ce-source", nats.MsgIdHdr} {
			if seen[key] == 0 {
				t.Errorf("no message with %s was seen", key)
			}
		}
	})
}

var printableASCII = func() string {
	var all strings.Builder
	for b := ' '; b <= '~'; b++ {
		all.WriteRune(b)
	}
	return all.String()
}()
