package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
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
		{"large ones, each another", func(i int) (string, string) { return quote(i, "D", "") }},
	}
	var table strings.Builder
	row := func(t *testing.T, name string, n int, of func(i int) (subject, body string)) {
		fmt.Fprintf(&table, "\n| %s | %s |", name, flood(t, n, of))
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) { row(t, kind.name, n/10, kind.of) })
	}
	t.Run("all together", func(t *testing.T) {
		row(t, "all together", n, func(i int) (string, string) { return kinds[i%len(kinds)].of(i) })
	})
	t.Logf("another agent's requests, p50 and p99, before and beside the flood\n"+
		"| flood | sent, worked off | its calls a second | another's | before | meanwhile | p99 | bare loop before | meanwhile | p99 |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |%s", &table)
}

const (
	floodLasts = 15 * time.Second // it is sent again until then
	floodEnds  = 75 * time.Second // what waits longer is not waited for
)

// largeAnswers are of 700 KB: to symbols with an L always the same, which is
// stored once, to those with a D one of so many others.
func largeAnswers(others int) func(symbol string) []byte {
	var rows bytes.Buffer
	for i := 0; rows.Len() < 700<<10; i++ {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		fmt.Fprintf(&rows, `,{"date":"20%02d-%02d-%02d","open":%.4f,"close":%.4f,"volume":%d}`,
			i/336%100, i/28%12+1, i%28+1, 100+r.Float64(), 100+r.Float64(), r.IntN(1e8))
	}
	same := append([]byte(`[{"symbol":"AAPL","price":1,"filler":"`+strings.Repeat("x", 700<<10)), `"}]`...)
	return func(symbol string) []byte {
		if symbol[0] == 'L' {
			return same
		}
		n, _ := strconv.Atoi(symbol[1:])
		first := fmt.Sprintf(`[{"symbol":"AAPL","price":1,"n":%d}`, n%others)
		return slices.Concat([]byte(first), rows.Bytes(), []byte("]"))
	}
}

// flood has mallory send n requests, and again as soon as they are worked off,
// and bob ask before and meanwhile. It returns the row of the table, without its
// first cell.
func flood(t *testing.T, n int, of func(i int) (subject, body string)) (row string) {
	large := largeAnswers(3000) // in all less than their store takes
	f := newFleet(t, func(q *http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		if symbol := path.Base(q.URL.Path); strings.ContainsAny(symbol[:1], "LD") {
			step.Body = large(symbol)
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
		for range 150 {
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
	began, sent := time.Now(), 0
	send := func() {
		for range n {
			subject, body := of(sent)
			sent++
			_, _ = js.PublishAsync(subject, []byte(body)) // what the server refuses is the flood's own
		}
		patient, enough := context.WithTimeout(t.Context(), time.Minute)
		defer enough()
		select {
		case <-js.PublishAsyncComplete():
		case <-patient.Done():
		}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for send(); time.Since(began) < floodEnds; time.Sleep(50 * time.Millisecond) {
			if f.count(fetchworker.StreamRequests) > 20 {
				continue
			}
			if time.Since(began) > floodLasts {
				return
			}
			send()
		}
	}()
	bareMeanwhile := loop.during(func() {
		for isOpen(over) {
			ask(&meanwhile)
		}
	})
	took, left := time.Since(began), f.count(fetchworker.StreamRequests)
	t.Logf("%d sent, of which %d wait after %v; another's way before:%s\nand meanwhile:%s",
		sent, left, took.Round(time.Millisecond), before.where(f), meanwhile.where(f))
	bare := func(d []time.Duration) (string, time.Duration) {
		slices.Sort(d)
		return fmt.Sprint(share(d, 50).Round(100*time.Microsecond), " ", share(d, 99).Round(100*time.Microsecond)), share(d, 99)
	}
	bareFirst, bareP99 := bare(bareBefore)
	bareThen, bareP99Then := bare(bareMeanwhile)
	times := func(than, now time.Duration) string { return fmt.Sprintf("%.1fx", float64(now)/float64(max(than, 1))) }
	return fmt.Sprintf("%d, %d | %.0f | %d | %v | %v | %s | %s | %s | %s", sent, sent-left, f.ofTheFlood(began), len(meanwhile.all),
		&before, &meanwhile, times(before.p99(), meanwhile.p99()), bareFirst, bareThen, times(bareP99, bareP99Then))
}

func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// ofTheFlood is how many of mallory's calls came to the provider in a second,
// from a time on until the last.
func (f *fleet) ofTheFlood(from time.Time) float64 {
	n, last := 0, from
	for _, c := range f.upstream.Calls() {
		if target, _, _ := strings.Cut(c.Target, "?"); path.Base(target)[0] != 'B' {
			n, last = n+1, c.At
		}
	}
	if n == 0 {
		return 0
	}
	return float64(n) / last.Sub(from).Seconds()
}
