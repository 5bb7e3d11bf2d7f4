package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestOneAgentsFloodIsItsOwn has one agent send as fast as it can, each kind of
// request alone and then all of them together, while another asks one by one:
// none of the other's publishes fails, all its requests are answered well, and
// the table says how long they took before and meanwhile. The times are told,
// not judged: on a machine with less to do they are others.
func TestOneAgentsFloodIsItsOwn(t *testing.T) {
	begin(t)
	n, err := strconv.Atoi(os.Getenv("FETCH_FLOOD"))
	if err != nil {
		t.Skip("make flood")
	}
	quote := func(i int, kind, after string) (string, string) {
		return "fetch.request.fmp.interactive.quote.mallory", fmt.Sprintf(`{"params":{"symbol":"%s%d"}}%s`, kind, i, after)
	}
	padding := strings.Repeat(" ", 8<<10)
	kinds := []struct {
		name string
		of   func(i int) (subject, body string)
	}{
		{"good", func(i int) (string, string) { return quote(i, "M", "") }},
		{"refused", func(int) (string, string) {
			return "fetch.request.fmp.interactive.quote.mallory", `{"params":{"symbol":7}}`
		}},
		{"padded", func(i int) (string, string) { return quote(i, "P", padding) }},
		{"invented providers", func(i int) (string, string) {
			return fmt.Sprintf("fetch.request.invented%d.interactive.quote.mallory", i%100), `{}`
		}},
		{"large answers", func(i int) (string, string) { return quote(i, "L", "") }},
	}
	alone := len(kinds)
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) { flood(t, n/10, kinds[i].of) })
	}
	t.Run("all together", func(t *testing.T) {
		flood(t, n, func(i int) (string, string) { return kinds[i%alone].of(i) })
	})
}

// flood has mallory send n requests, and bob ask before and meanwhile.
func flood(t *testing.T, n int, of func(i int) (subject, body string)) {
	large := `[{"symbol":"AAPL","price":1,"filler":"` + string(bytes.Repeat([]byte("x"), 700<<10)) + `"}]`
	f := newFleet(t, func(q *http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		if path.Base(q.URL.Path)[0] == 'L' {
			step = providertest.JSON(http.StatusOK, large)
		}
		step.Latency = 50 * time.Millisecond
		return &step
	})
	f.answers.Stop() // nobody here can follow all answers
	f.worker()
	f.worker()
	f.replayer()
	bob, err := fetchworker.NewClient(f.nc, "bob")
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	asked := 0
	ask := func() time.Duration {
		asked++
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", ID: fmt.Sprint("b-", asked), Params: fmt.Appendf(nil, `{"symbol":"B%d"}`, asked)}
		a, err := bob.Fetch(ctx, r)
		if err != nil || a.Status != fetchworker.StatusOK {
			t.Errorf("request %d: %+v %v", asked, a, err)
		}
		return time.Since(began)
	}
	var before, meanwhile []time.Duration
	for range 100 {
		before = append(before, ask())
	}

	nc, err := nats.Connect(f.env["NATS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1000))
	if err != nil {
		t.Fatal(err)
	}
	var over atomic.Bool
	took := make(chan time.Duration, 1)
	began := time.Now()
	go func() {
		defer over.Store(true)
		for i := range n {
			subject, body := of(i)
			_, _ = js.PublishAsync(subject, []byte(body)) // what the server refuses is the flood's own
		}
		patient, enough := context.WithTimeout(t.Context(), time.Minute)
		defer enough()
		select {
		case <-js.PublishAsyncComplete():
		case <-patient.Done():
		}
		took <- time.Since(began)
	}()
	for !over.Load() || time.Since(began) < 10*time.Second {
		meanwhile = append(meanwhile, ask())
	}
	slices.Sort(before)
	slices.Sort(meanwhile)
	p := func(d []time.Duration, q float64) time.Duration {
		return d[int(q*float64(len(d)-1))].Round(time.Millisecond)
	}
	t.Logf("%d sent in %v, of which %d wait; another's p50 %v and p99 %v before, p50 %v and p99 %v of %d meanwhile",
		n, (<-took).Round(time.Second), f.count(fetchworker.StreamRequests), p(before, 0.5), p(before, 0.99), p(meanwhile, 0.5), p(meanwhile, 0.99), len(meanwhile))
}
