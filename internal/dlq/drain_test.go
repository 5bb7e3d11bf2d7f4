package dlq_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// unasked starts a replayer that has met letters of a paused provider and is
// handed none any more: what it releases, it has read.
func unasked(f *dlqtest.Fleet, hook record.Hook, letters ...dlq.Letter) *brokertest.Wire {
	f.T.Helper()
	if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
		f.T.Fatal(err)
	}
	f.Put(letters...)
	w := &brokertest.Wire{}
	js, end := f.Through(f.T, w)
	stop := replayerWith(f, js, hook, func(*dlq.Config) {})
	f.Running.Go(func() {
		<-f.Ctx.Done()
		stop()
		end()
	})
	f.Eventually(5*time.Second, "it has met them", func() bool {
		for _, l := range letters {
			if _, told := f.Answer(l.Identity); !told {
				return false
			}
		}
		return true
	})
	w.Break("CONSUMER.MSG.NEXT", brokertest.RequestLost, 1_000_000, 0)
	time.Sleep(6 * time.Second) // until its last pull has ended
	return w
}

func resume(f *dlqtest.Fleet) {
	f.T.Helper()
	if err := fleet.Resume(f.Ctx, f.KV, "fmp"); err != nil {
		f.T.Fatal(err)
	}
}

// The letter for which there was no room any more when it was read is the next
// one, as soon as there is some.
func TestTheLetterWithoutRoomIsTheNext(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		released := func(i int) {
			if _, err := f.JS.PublishMsg(f.Ctx, dlqtest.Fresh(i, wire.ClassPaused).Replayed()); err != nil {
				t.Fatal(err)
			}
		}
		const room = 2 * 16
		for i := range room - 1 {
			released(100 + i)
			f.Accepted = append(f.Accepted, dlqtest.Ident(100+i))
		}
		slow := unasked(f, nil, dlqtest.Fresh(1, wire.ClassPaused))
		slow.Break("DIRECT.GET."+wire.StreamDLQ, brokertest.ReplyLate, 1, 1500*time.Millisecond)
		met := slow.Met()
		resume(f)
		f.Eventually(time.Second, "it is read", func() bool { return slow.Met() > met })
		released(99) // by another replayer
		time.Sleep(2 * time.Second)
		if n := f.Count(wire.StreamReplay, ">"); n != room {
			t.Errorf("%d are released, room is for %d", n, room)
		}
		stream, err := f.JS.Stream(f.Ctx, wire.StreamReplay)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Purge(f.Ctx, jetstream.WithPurgeSubject(wire.ReplaySubject("*", dlqtest.Ident(99)))); err != nil {
			t.Fatal(err)
		}
		f.Eventually(time.Second, "it is released", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
	})
}

// Writes that fail cost a drain neither their letters nor the turns of those
// that come after.
func TestAWriteThatFailsCostsADrainNothing(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		var writes atomic.Int32
		letters := make([]dlq.Letter, 20)
		for i := range letters {
			letters[i] = dlqtest.Fresh(i, wire.ClassPaused)
		}
		unasked(f, func(point string, persisted bool) error {
			if point == "replay" && !persisted && writes.Add(1) <= 10 {
				return errors.New("the server is away")
			}
			return nil
		}, letters...)
		resume(f)
		released(f, 10*time.Second, len(letters))
		f.Eventually(5*time.Second, "none is left", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
	})
}

// What another replayer reads is read by nobody else, for as long as that one
// says that it lives, and no longer.
func TestAnothersLeaseIsLeftToIt(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		lives := func() {
			value := fmt.Appendf(nil, `{"by":"another","until":%q}`, time.Now().Add(6*time.Second).Format(time.RFC3339Nano))
			if _, err := f.KV.Put(f.Ctx, "drain.fmp", value); err != nil {
				t.Fatal(err)
			}
		}
		lives()
		unasked(f, nil, dlqtest.Fresh(1, wire.ClassPaused))
		lives()
		resume(f)
		for range 10 {
			time.Sleep(2 * time.Second)
			lives()
		}
		released(f, 0, 0)
		released(f, 8*time.Second, 1)
	})
}

// A letter that nobody has been handed yet is as soon out of the queue, once it
// is sent back, as one that somebody has.
func TestWhatNobodyWasHandedIsTakenOutAtOnce(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		unasked(f, nil, dlqtest.Fresh(0, wire.ClassPaused))
		const n = 10
		for i := 1; i < n; i++ {
			f.Put(dlqtest.Fresh(i, wire.ClassPaused))
		}
		time.Sleep(2 * time.Second)
		resume(f)
		released(f, 3*time.Second, n)
		f.Eventually(time.Second, "none is left", func() bool { return f.Count(wire.StreamDLQ, ">") == 0 })
	})
}

// Whoever reads for a provider leaves alone what is another's whose name begins
// alike: that has no room.
func TestADrainReadsOneProviders(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Serve("fmp2")
		const room = 2 * 16
		others := dlqtest.Fresh(1, wire.ClassPaused)
		others.Provider = "fmp2"
		for i := range room {
			l := others
			l.ID = dlqtest.Ident(100 + i).ID
			if _, err := f.JS.PublishMsg(f.Ctx, l.Replayed()); err != nil {
				t.Fatal(err)
			}
			f.Accepted = append(f.Accepted, l.Identity)
		}
		f.Put(others)
		unasked(f, nil, dlqtest.Fresh(1, wire.ClassPaused), dlqtest.Fresh(2, wire.ClassPaused))
		resume(f)
		released(f, 5*time.Second, room+2)
		time.Sleep(5 * time.Second)
		released(f, 0, room+2)
	})
}

// After a while without a replayer a crowd waits to be met, in the order it was
// stored: what is due of another provider is looked for by itself meanwhile, and
// so is what comes due later.
func TestBehindACrowdThatIsYetToBeMetALetterGoes(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		f.Serve("polygon")
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		f.Crowd(2100, func(l *dlq.Letter) { l.Class = wire.ClassPaused })
		due, soon := dlqtest.FailedOnce(1), dlqtest.FailedOnce(2)
		due.NotBefore, soon.NotBefore = time.Now(), time.Now().Add(5*time.Second)
		due.Provider, soon.Provider = "polygon", "polygon"
		f.Put(due, soon)
		w := &brokertest.Wire{}
		js, end := f.Through(t, w)
		defer end()
		w.Break("CONSUMER.MSG.NEXT", brokertest.RequestLost, 1_000_000, 0)
		defer replayerWith(f, js, nil, func(*dlq.Config) {})()
		released(f, 3*time.Second, 1)
		released(f, 6*time.Second, 2)
		f.Accepted = nil
	})
}
