package fetchworker_test

import (
	"context"
	"errors"
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

// How often a request is sent within a try that nobody hears: after ever longer
// waits, for whatever is sent again costs the server a look.
func TestHowOftenARequestIsSent(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		w.Break("fetch.request.", brokertest.RequestLost, 1<<20, 0)
		ended := make(chan error)
		go func() {
			_, err := w.Submit(until(t, 10*time.Second), quote("q-1"))
			ended <- err
		}()
		for _, c := range []struct {
			after time.Duration
			sent  int
		}{{200 * time.Millisecond, 1}, {100 * time.Millisecond, 2}, {500 * time.Millisecond, 3}, {time.Second, 4}, {600 * time.Millisecond, 4}, {300 * time.Millisecond, 5}, {2 * time.Second, 5}} { // the second try has one
			time.Sleep(c.after)
			if got := w.Met(); got != c.sent {
				t.Errorf("sent %d times and not %d after %v more", got, c.sent, c.after)
			}
		}
		w.Mend()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := w.stored(); got != 1 {
			t.Errorf("%d are stored", got)
		}
	})
}

// What the queue cannot take for a moment is published again, soon after an election
// and for half a minute where it is full, whichever way a bulk is published.
func TestWhatTheQueueDoesNotTakeForAMoment(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s, err := w.JS.Stream(t.Context(), fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		if err := w.JS.DeleteStream(t.Context(), fetchworker.StreamRequests); err != nil {
			t.Fatal(err)
		}
		made := make(chan struct{})
		time.AfterFunc(4*time.Second, func() {
			defer close(made)
			if _, err := w.JS.CreateStream(t.Context(), config); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		if _, err := w.Submit(until(t, time.Minute), quote("q-1")); err != nil || time.Since(began) > 4300*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		<-made
		full := config
		full.MaxMsgs = 1
		w.service().onRequest(func(r fetchworker.Request) { w.service().store(ok(r.Identity(), `[1]`)) })
		for how, do := range map[string]func(context.Context) (int, error){
			"SubmitAll": func(ctx context.Context) (n int, failed error) {
				for _, err := range w.SubmitAll(ctx, quotes(5)) {
					n, failed = n+1, errors.Join(failed, err)
				}
				return n, failed
			},
			"FetchAll": func(ctx context.Context) (n int, failed error) {
				for _, err := range w.FetchAll(ctx, quotes(5)) {
					n, failed = n+1, errors.Join(failed, err)
				}
				return n, failed
			},
		} {
			full.MaxMsgs, full.MaxMsgsPerSubject = 1, 1
			full.Discard, full.DiscardNewPerSubject = config.Discard, config.DiscardNewPerSubject
			if _, err := w.JS.UpdateStream(t.Context(), full); err != nil {
				t.Fatal(err)
			}
			roomy := make(chan struct{})
			time.AfterFunc(20*time.Second, func() {
				defer close(roomy)
				if _, err := w.JS.UpdateStream(t.Context(), config); err != nil {
					t.Error(err)
				}
			})
			if n, err := do(until(t, time.Minute)); err != nil || n != 5 {
				t.Errorf("%s: %d, %v", how, n, err)
			}
			<-roomy
			time.Sleep(time.Minute) // an id is forgotten
		}
	})
}
