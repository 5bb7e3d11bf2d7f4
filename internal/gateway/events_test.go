package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
)

// sse is a stream of server-sent events.
type sse struct {
	t    *testing.T
	res  *http.Response
	in   *bufio.Reader
	stop context.CancelFunc
}

func (r *rig) listen(headers ...string) *sse {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	r.t.Cleanup(stop)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/v1/answers", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Client{Transport: r.http.Transport}).Do(req) // without its time limit
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		r.t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return &sse{r.t, res, bufio.NewReader(res.Body), stop}
}

type sseEvent struct {
	ID, Event string
	Data      struct {
		ID       string               `json:"id"`
		Status   string               `json:"status"`
		Location string               `json:"location"`
		Final    bool                 `json:"final"`
		Bytes    int                  `json:"bytes"`
		Reason   string               `json:"reason"`
		Body     json.RawMessage      `json:"body"`
		Problem  *fetchworker.Problem `json:"problem"`
	}
}

// next is the next event; "" for its id when the stream has ended.
func (s *sse) next() (e sseEvent) {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return sseEvent{}
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			e.ID = value
		case "event":
			e.Event = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.Data); err != nil {
				s.t.Errorf("%s: %v", value, err)
			}
		case "":
			if e.ID != "" {
				return e
			}
		}
	}
}

func (r *rig) answered(agent, id string) {
	a := good(fetchworker.Request{})[0]
	a.Identity = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent, ID: id}
	r.store(a)
}

func TestAnswersAreSentAsTheyCome(t *testing.T) {
	r := newRig(t, nil)
	r.answered("alice", "before")
	s := r.listen("Fetch-Agent", "alice")
	r.says(waits)
	r.post("/v1/fmp/quote", `{"params":{"symbol":"AAPL"}}`, "Fetch-Agent", "alice", "Idempotency-Key", "q-1", "Prefer", "respond-async")
	e := s.next()
	if e.Event != "answer" || e.Data.ID != "q-1" || e.Data.Status != "waiting" || e.Data.Final || e.Data.Reason != "circuit_open" || e.Data.Problem == nil {
		t.Errorf("%+v", e)
	}
	r.answered("bob", "not-hers")
	r.answered("alice", "q-1")
	e = s.next()
	if e.Data.ID != "q-1" || !e.Data.Final || e.Data.Location != "/v1/requests/fmp/quote/q-1" || e.Data.Bytes != len(aQuote) || string(e.Data.Body) != strings.TrimSpace(strings.ReplaceAll(aQuote, ": ", ":")) && !json.Valid(e.Data.Body) {
		t.Errorf("%+v", e)
	}
	if again := r.get(e.Data.Location, "Fetch-Agent", "alice"); again.body != aQuote {
		t.Error(again.body)
	}
	s.stop()

	// While nobody listens answers come, and none is lost.
	for n := range 5 {
		r.answered("alice", "m-"+strconv.Itoa(n))
	}
	s = r.listen("Fetch-Agent", "alice", "Last-Event-ID", e.ID)
	for n := range 5 {
		if e = s.next(); e.Data.ID != "m-"+strconv.Itoa(n) {
			t.Errorf("%d: %+v", n, e)
		}
	}
	r.answered("alice", "live")
	if e = s.next(); e.Data.ID != "live" {
		t.Errorf("%+v", e)
	}
	all := r.listen("Fetch-Agent", "alice", "Last-Event-ID", "0")
	for _, want := range []string{"before", "q-1", "m-0", "m-1", "m-2", "m-3", "m-4", "live"} {
		if e = all.next(); e.Data.ID != want {
			t.Errorf("%s: %+v", want, e)
		}
	}
}

// A place beyond all that is stored is of a store that is gone: what comes is told.
func TestAPlaceThatIsGoneHoldsNothingBack(t *testing.T) {
	r := newRig(t, nil)
	r.answered("alice", "before")
	s := r.listen("Fetch-Agent", "alice", "Last-Event-ID", "1000000")
	r.answered("alice", "after")
	if e := s.next(); e.Data.ID != "after" {
		t.Errorf("%+v", e)
	}
}

// Who does not read for a while gets what was forgotten meanwhile from the store.
func TestWhoLagsBehindIsCaughtUp(t *testing.T) {
	r := newRig(t, nil)
	slow, quick := r.listen("Fetch-Agent", "alice"), r.listen("Fetch-Agent", "alice")
	const many = 4000 // more than a feed remembers, and than a connection holds
	var storing sync.WaitGroup
	for part := range 8 {
		storing.Go(func() {
			for n := range many / 8 {
				r.answered("alice", fmt.Sprintf("q-%d-%d-%s", part, n, strings.Repeat("x", 40)))
			}
		})
	}
	for _, s := range []*sse{quick, slow} {
		seen := map[string]int{}
		for len(seen) < many {
			e := s.next()
			if e.ID == "" {
				t.Fatalf("it ended after %d", len(seen))
			}
			seen[e.Data.ID]++
		}
		storing.Wait()
	}
}

func TestAStreamEndsWithItsGateway(t *testing.T) {
	r := newRig(t, nil)
	s := r.listen()
	go r.stop()
	ended := make(chan sseEvent, 1)
	patience, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { ended <- s.next() }()
	select {
	case e := <-ended:
		if e.ID != "" {
			t.Errorf("%+v", e)
		}
	case <-patience.Done():
		t.Error("it goes on")
	}
}

// Requests and streams cost NATS one subscription an agent.
func TestOneSubscriptionAnAgent(t *testing.T) {
	r := newRig(t, nil)
	for range 5 {
		r.listen("Fetch-Agent", "alice")
		r.get("/v1/fmp/quote?symbol=AAPL", "Fetch-Agent", "alice")
	}
	settled := func() int { return r.nc.NumSubscriptions() }
	before := settled()
	for range 50 {
		r.get("/v1/fmp/quote?symbol=AAPL", "Fetch-Agent", "alice")
	}
	for range 10 {
		r.listen("Fetch-Agent", "alice")
	}
	if after := settled(); after > before {
		t.Errorf("%d subscriptions were %d", after, before)
	}
	r.get("/v1/fmp/quote?symbol=AAPL", "Fetch-Agent", "bob")
	if after := settled(); after > before+1 {
		t.Errorf("%d subscriptions were %d", after, before)
	}
}
