package fetch

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// What several workers write against one message at once is all written.
func TestSuspicionsAddUp(t *testing.T) {
	b := brokertest.Start(t)
	w := &Worker{kv: b.KV, logger: zap.NewNop()}
	const workers, times = 8, 5
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range times {
				if err := w.suspect(t.Context(), &delivery{sequence: 7}, func(s *suspicion) { s.HandedBack++ }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s, err := w.suspicionOf(t.Context(), &delivery{sequence: 7})
	if err != nil || s.HandedBack != workers*times {
		t.Errorf("%d of %d are written down: %v", s.HandedBack, workers*times, err)
	}
}

// What stands against a message stays until it is known that the message is
// gone.
func TestWhatStandsAgainstAMessageStaysWithIt(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		wire := &brokertest.Wire{}
		js, end := b.Through(t, wire)
		defer end()
		w := &Worker{kv: b.KV, log: record.New(js, nil), logger: zap.NewNop()}
		ack, err := b.JS.Publish(t.Context(), "fetch.request.fmp.interactive.quote.alice", []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		d := &delivery{sequence: ack.Sequence}
		if err := w.suspect(t.Context(), d, func(s *suspicion) { s.HandedBack++ }); err != nil {
			t.Fatal(err)
		}
		stays := func(what string, want bool) {
			t.Helper()
			if err := w.clearLeft(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := b.KV.Get(t.Context(), d.suspectKey()); errors.Is(err, jetstream.ErrKeyNotFound) == want {
				t.Errorf("%s: %v", what, err)
			}
		}
		wire.Break("DIRECT.GET."+fetchworker.StreamRequests, brokertest.RequestLost, 1<<20, 0)
		stays("the server does not say", true)
		wire.Mend()
		stays("the message is there", true)
		stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.DeleteMsg(t.Context(), ack.Sequence); err != nil {
			t.Fatal(err)
		}
		stays("it is gone", false)
	})
}

// A suspect that only waits stands against nobody: should its worker die then, it
// has not killed it.
func TestASuspectThatWaitsIsNone(t *testing.T) {
	b := brokertest.Start(t)
	w := &Worker{name: "w", kv: b.KV, logger: zap.NewNop(), inside: semaphore.NewWeighted(everyone), working: t.Context()}
	d := &delivery{sequence: 7}
	against := func() int {
		t.Helper()
		s, err := w.suspicionOf(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Running)
	}
	err := w.sharing(t.Context(), d, everyone, func() error {
		if err := w.suspect(t.Context(), d, func(s *suspicion) { s.Running = append(s.Running, w.name) }); err != nil {
			return err
		}
		d.lone = true
		defer w.cameBack(d)
		if against() != 1 {
			t.Error("nothing says that it runs")
		}
		return w.aside(d, func() error {
			if n := against(); n != 0 {
				t.Errorf("%d runs stand against one that waits", n)
			}
			if !w.inside.TryAcquire(everyone) {
				t.Error("one that waits holds up others")
			} else {
				w.inside.Release(everyone)
			}
			return nil
		})
	})
	if n := against(); err != nil || n != 0 || !w.inside.TryAcquire(everyone) {
		t.Errorf("%d runs stand against it afterwards: %v", n, err)
	}
}

// What is handed back once the drain time is over is written down as well: it is
// no death.
func TestAHandBackAfterTheDrainIsWrittenDown(t *testing.T) {
	b := brokertest.Start(t)
	over, kill := context.WithCancel(t.Context())
	kill()
	w := &Worker{name: "w", kv: b.KV, logger: zap.NewNop(), working: over}
	d := &delivery{sequence: 7, count: 2}
	if err := w.givesBack(d); err != nil {
		t.Error(err)
	}
	if s, err := w.suspicionOf(t.Context(), d); err != nil || s.HandedBack != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}
