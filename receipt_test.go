package fetchworker_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// wiredClient is a client before a server behind a wire that can be broken.
type wiredClient struct {
	*fetchworker.Client
	*brokertest.Wire
	*brokertest.Broker
	t  *testing.T
	nc *nats.Conn
}

// wired runs a test of it on a clock of its own.
func wired(t *testing.T, test func(*testing.T, *wiredClient)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &wiredClient{Wire: &brokertest.Wire{}, Broker: brokertest.StartIn(t, dir, ""), t: t}
		t.Cleanup(w.Broker.Stop)
		w.Ageless(t)
		w.nc = w.ConnectThrough(t, w.Wire)
		t.Cleanup(w.nc.Close)
		var err error
		if w.Client, err = fetchworker.NewClient(w.nc, "alice"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		test(t, w)
	})
}

// stored is how many requests are.
func (w *wiredClient) stored() uint64 {
	w.t.Helper()
	s, err := w.JS.Stream(w.t.Context(), fetchworker.StreamRequests)
	if err != nil {
		w.t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// A leader that steps down says nothing of a request that it has not begun with:
// the same is sent again soon, and is stored once, whichever of the two got lost.
func TestARequestWhoseReceiptDoesNotComeIsSentAgainSoon(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		n := uint64(0)
		for fault, name := range map[brokertest.Fault]string{brokertest.RequestLost: "the request", brokertest.ReplyLost: "the receipt"} {
			for times, most := range map[int]time.Duration{0: 0, 1: 250 * time.Millisecond, 2: 750 * time.Millisecond, 3: 1750 * time.Millisecond, 4: 2600 * time.Millisecond} {
				n++
				w.Break("fetch.request.", fault, times, 0)
				began := time.Now()
				receipt, err := w.Submit(t.Context(), quote(fmt.Sprint("q-", n)))
				took := time.Since(began)
				w.Mend()
				if err != nil || took > most+10*time.Millisecond {
					t.Errorf("%s lost %d times: after %v: %v", name, times, took, err)
				}
				if wasStored := fault == brokertest.ReplyLost && times > 0; receipt.Duplicate != wasStored {
					t.Errorf("%s lost %d times: duplicate: %v", name, times, receipt.Duplicate)
				}
				if got := w.stored(); got != n {
					t.Errorf("%s lost %d times: %d requests are stored, not %d", name, times, got, n)
				}
			}
		}
	})
}

// Who only is slow is not asked again and again for each request: what receipts
// take is learnt, and forgotten.
func TestASlowServerIsNotSentEachRequestTwice(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		submit := func(n int) {
			for range n {
				if _, err := w.Submit(t.Context(), quote("")); err != nil {
					t.Fatal(err)
				}
			}
		}
		submit(20)
		w.Break("fetch.request.", brokertest.ReplyLate, 1<<20, time.Second)
		submit(100)
		if more := w.Met() - 100; more < 1 || more > 6 {
			t.Errorf("%d of 100 requests were sent again", more)
		}
		w.Mend()
		submit(60)
		w.Break("fetch.request.", brokertest.RequestLost, 1, 0)
		began := time.Now()
		submit(1)
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("a lost request was sent again after %v, though the server has been quick for long", took)
		}
		if got := w.stored(); got != 181 {
			t.Errorf("%d requests are stored", got)
		}
	})
}

// A crowd before a server that says nothing does not come several times over.
func TestACrowdIsNotSentAgainAsAWhole(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		const crowd = 1000
		w.Break("fetch.request.", brokertest.RequestLost, 1<<20, 0)
		var submitting sync.WaitGroup
		var failed atomic.Int64
		for range crowd {
			submitting.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := w.Submit(ctx, quote("")); err != nil {
					failed.Add(1)
				}
			})
		}
		time.Sleep(2400 * time.Millisecond)
		sent := w.Met()
		w.Mend()
		submitting.Wait()
		if more := sent - crowd; more < 16 || more > 300 {
			t.Errorf("%d of %d requests were sent again within %v", more, crowd, fetchworker.RepeatWithin/2)
		}
		if got := w.stored(); got != crowd || failed.Load() > 0 {
			t.Errorf("%d requests are stored, %d failed", got, failed.Load())
		}
	})
}
