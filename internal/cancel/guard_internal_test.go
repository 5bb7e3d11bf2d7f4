package cancel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

const beatsOn = "$KV." + wire.BucketProviders + "." + beatPrefix

// A worker that cannot know what was cancelled calls nobody, says why, and calls
// again as soon as it knows.
func TestNoCallOfWhoCannotKnow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		g, _, end := guardThrough(t, b, &cable)
		defer end()
		refused := func(when string, ctx context.Context, within time.Duration) {
			t.Helper()
			began := time.Now()
			call, err := g.MayCall(ctx, request("q-1"))
			if call != nil || err == nil || errors.Is(err, ErrCancelled) || time.Since(began) > within {
				t.Errorf("%s: %v, %v, after %v", when, call, err, time.Since(began))
			}
			if len(g.begun) != 0 {
				t.Errorf("%s: %d calls are under way", when, len(g.begun))
			}
		}
		may := func(when string) {
			t.Helper()
			call, err := g.MayCall(t.Context(), request("q-1"))
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			call.Written()
		}
		cable.Break(beatsOn, brokertest.RequestLost, 1<<20, 0)
		refused("no beat is stored", t.Context(), leaseLasts+time.Second)
		hurried, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		refused("and whoever asks is in a hurry", hurried, 200*time.Millisecond)
		cancel()
		cable.Mend()
		time.Sleep(leaseLasts)
		may("beats are stored again")
		// No beat of an ended lease counts.
		time.Sleep(leaseLasts)
		cable.Break(beatsOn, brokertest.RequestLost, 1<<20, 0)
		refused("the lease is over", t.Context(), leaseLasts+time.Second)
		cable.Mend()
		may("and another begins")
		if _, err := store(t.Context(), b.JS, record.New(b.JS, nil), "fmp", "alice", Order{Operation: "quote", IDs: []string{"q-9"}}, time.Now(), time.Hour, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		may("another request of hers is cancelled")
		cable.Break("STREAM.MSG.GET."+fetchworker.StreamResults, brokertest.RequestLost, 1, 0)
		refused("whether this one is nobody says", t.Context(), leaseLasts+6*time.Second)
		may("it is asked again")
		if err := b.JS.DeleteStream(t.Context(), fetchworker.StreamResults); err != nil {
			t.Fatal(err)
		}
		refused("the answers are gone", t.Context(), time.Second)
		if err := g.Leave(context.Background()); err != nil { //nolint:usetesting // it may be over
			t.Error(err)
		}
	})
}

// A lease is renewed while calls begin, before it is over and not sooner than in
// its second half; a worker that is idle says nothing, and one that leaves is
// waited for by nobody.
func TestWhenALeaseIsRenewed(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		var beats atomic.Int32
		sub, err := o.b.NC.Subscribe(beatsOn+"*", func(m *nats.Msg) {
			if m.Header.Get("KV-Operation") == "" {
				beats.Add(1)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		beat := func(when string, want int32) {
			t.Helper()
			time.Sleep(10 * time.Millisecond)
			if n := beats.Swap(0); n != want {
				t.Errorf("%s: %d beats, want %d", when, n, want)
			}
		}
		calls := func() {
			t.Helper()
			began := time.Now()
			call, err := o.guard.MayCall(t.Context(), request("q-1"))
			if err != nil || time.Since(began) > time.Millisecond {
				t.Fatalf("%v, after %v", err, time.Since(began))
			}
			call.Written()
		}
		beat("at the beginning", 0)
		o.guard.Warm()
		o.guard.Warm()
		beat("before the first call", 1)
		calls()
		o.guard.Warm()
		beat("a call, and another's beginning", 0)
		time.Sleep(leaseLasts/2 - 50*time.Millisecond)
		calls()
		o.guard.Warm()
		beat("in the lease's first half", 0)
		time.Sleep(50 * time.Millisecond)
		calls()
		beat("a call in its second", 1)
		time.Sleep(leaseLasts/2 + 50*time.Millisecond)
		o.guard.Warm()
		beat("one that comes soon in its second", 1)
		time.Sleep(time.Minute)
		beat("idle", 0)
		for range 40 { // four seconds
			o.guard.Warm()
			calls()
			time.Sleep(100 * time.Millisecond)
		}
		if n := beats.Swap(0); n < 4 || n > 5 {
			t.Errorf("%d beats in four seconds of calls", n)
		}
		if err := o.guard.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		if left := o.desk.view.callers(time.Now()); len(left) > 0 {
			t.Errorf("who has left may call: %v", left)
		}
	})
}

// Who leaves has said all that it had to: a beat under way is over, and whoever
// waits for a call knows of it.
func TestWhoLeavesIsSilent(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		g, _, end := guardThrough(t, b, &cable)
		defer end()
		cable.Break(beatsOn, brokertest.ReplyLate, 1, time.Second)
		g.Warm()
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		if err := g.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 500*time.Millisecond {
			t.Errorf("it has left after %v, and a beat of it is under way", took)
		}
		if keys, err := b.KV.Keys(t.Context()); err == nil {
			t.Errorf("who has left is kept: %v", keys)
		}
		cable.Break(beatsOn, brokertest.RequestLost, 1<<20, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Leave(ctx); err == nil {
			t.Error("nobody heard that it left, and it knows nothing of that")
		}
		g.js.Conn().Close()
		if err := g.Leave(t.Context()); err != nil {
			t.Errorf("without a connection: %v", err)
		}
	})
}

// A mark that comes after a worker has left is told of to nobody, whatever is yet
// under way there: nobody waits for who has left.
func TestWhoHasLeftTellsOfNoMark(t *testing.T) {
	inOffice(t, func(t *testing.T, o *office) {
		call, err := o.guard.MayCall(t.Context(), request("q-1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := o.guard.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		words, err := o.b.NC.SubscribeSync(seenPrefix + "*")
		if err != nil {
			t.Fatal(err)
		}
		if _, took := o.order(byAll); took > 100*time.Millisecond {
			t.Errorf("the order took %v", took)
		}
		call.Written()
		if m, err := words.NextMsg(time.Minute); err == nil {
			t.Errorf("%s was told by %s", m.Subject, m.Data)
		}
	})
}
