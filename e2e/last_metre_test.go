package e2e

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// TestNoFetchWaitsForItsAnswerOnACluster asks ten thousand times on three
// servers, through clients on each of them: an answer that is stored on another
// server than the client's is there as soon as one on its own, every time.
func TestNoFetchWaitsForItsAnswerOnACluster(t *testing.T) {
	begin(t)
	n, most := pick(150, 10_000), pick(2*time.Second, 500*time.Millisecond)
	servers := threeServers(t)
	f := onServers(t, servers, 3)
	f.upstream.Fallback = well(5 * time.Millisecond)
	f.worker()
	f.worker()
	var clients []*fetchworker.Client
	for _, s := range servers {
		nc, err := nats.Connect(urls(t, []*natsServer{s}, "alice"), nats.CustomInboxPrefix("_INBOX_alice"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		c, err := fetchworker.NewClient(nc, "alice")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		clients = append(clients, c)
	}
	if _, err := clients[0].Fetch(t.Context(), fetchworker.Request{Provider: "fmp", Operation: "quote", Params: params("fmp", "FIRST")}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var took []time.Duration
	var asking sync.WaitGroup
	work := make(chan int)
	for _, c := range clients {
		for range 2 {
			asking.Go(func() {
				for i := range work {
					start := time.Now()
					a, err := c.Fetch(t.Context(), fetchworker.Request{Provider: "fmp", Operation: "quote", Params: params("fmp", fmt.Sprint("S", i))})
					d := time.Since(start)
					if err != nil || a.Status != fetchworker.StatusOK {
						t.Errorf("%v after %v: %s", err, d, a.Status)
					}
					mu.Lock()
					took = append(took, d)
					mu.Unlock()
				}
			})
		}
	}
	for i := range n {
		work <- i
	}
	close(work)
	asking.Wait()
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[min(int(share*float64(len(took))), len(took)-1)].Round(100 * time.Microsecond)
	}
	t.Logf("%d fetches on three servers: p50 %v, p99 %v, p99.9 %v, the slowest %v", n, at(0.5), at(0.99), at(0.999), at(1))
	if at(1) > most {
		t.Errorf("the slowest took %v", at(1))
	}
}
