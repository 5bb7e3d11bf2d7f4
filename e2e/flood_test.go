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
// the table says how long they took before and meanwhile, and how long those of
// a bare loop on the same server did: what they have in common is the machine's.
// The times are told, not judged.
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
	ask := func(l *laps) {
		asked++
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		symbol := fmt.Sprint("B", asked)
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", ID: fmt.Sprint("b-", asked), Params: fmt.Appendf(nil, `{"symbol":%q}`, symbol)}
		if err := l.fetch(ctx, bob, r, symbol); err != nil {
			t.Errorf("request %d: %v", asked, err)
		}
	}
	loop := f.startBare()
	var before, meanwhile laps
	bareBefore := loop.during(func() {
		for range 100 {
			ask(&before)
		}
	})

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
	bareMeanwhile := loop.during(func() {
		for !over.Load() || time.Since(began) < 10*time.Second {
			ask(&meanwhile)
		}
	})
	bareTook := func(d []time.Duration) string {
		slices.Sort(d)
		return fmt.Sprint(share(d, 50).Round(100*time.Microsecond), " ", share(d, 99).Round(100*time.Microsecond))
	}
	t.Logf("%d sent in %v, of which %d wait; p50 and p99 of another's %v before and %v of %d meanwhile, of a bare loop's %s before and %s of %d meanwhile; another's way before:%s\nand meanwhile:%s",
		n, (<-took).Round(100*time.Millisecond), f.count(fetchworker.StreamRequests), &before, &meanwhile, len(meanwhile.all),
		bareTook(bareBefore), bareTook(bareMeanwhile), len(bareMeanwhile), before.where(f), meanwhile.where(f))
}
