package record_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// wired runs a test on a clock of its own, with a server behind a wire that
// can be broken, and a log beside it.
func wired(t *testing.T, test func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		w := &brokertest.Wire{}
		js, end := b.Through(t, w)
		defer end()
		test(t, b, js, w)
	})
}

func named(a fetchworker.Answer, name string) fetchworker.Answer {
	a.Identity.ID = name
	return a
}

// Whatever is lost on the way of a write or of a read, once or for as long as
// it lasts: what a Put says stands is what stands, and what it does not know
// is an error.
func TestWhatIsBelievedIsWhatStands(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log, sure := record.New(js, nil), record.New(b.JS, nil)
		n := 0
		for before, stored := range map[string]*fetchworker.Answer{"nothing": nil, "a lower": ptr(waiting(1, "paused", 1)), "a higher": ptr(failed(1, false))} {
			for at, part := range map[string]string{"the write": "fetch.put.", "the read": "DIRECT.GET"} {
				for fault, name := range map[brokertest.Fault]string{brokertest.RequestLost: "the request", brokertest.ReplyLost: "the reply", brokertest.ReplyLate: "the reply for a while"} {
					for times, size := range map[int]int{1: 0, 1 << 20: 0, 2: 70 << 10} { // a large one is sent once a try
						n++
						what := fmt.Sprintf("over %s, %s of %s lost %d times", before, name, at, times) + strings.Repeat(" ", size)
						slot := slotOf(named(ok(1), fmt.Sprint(n)).Identity)
						if stored != nil {
							if _, err := sure.Put(t.Context(), slot, named(*stored, fmt.Sprint(n)).Encode()); err != nil {
								t.Fatal(err)
							}
						}
						w.Break(part, fault, times, 7*time.Second)
						ours := named(ok(1), fmt.Sprint(n))
						ours.Body = []byte(what)
						out, err := log.Put(t.Context(), slot, ours.Encode())
						w.Mend()
						time.Sleep(10 * time.Second) // what was late has come
						stands, read := sure.Get(t.Context(), slot)
						mine := read == nil && bytes.Equal(stands.Data, []byte(what))
						switch {
						case err != nil && times <= 2:
							t.Errorf("%.100s: %v", what, err)
						case err != nil:
						case !out.Stored && mine:
							t.Errorf("%.100s: it stands, and does not count as stored", what)
						case out.Stored && !mine:
							t.Errorf("%.100s: it counts as stored, and %.100q stands (%v)", what, stands.Data, read)
						case !out.Stored && (out.Existing == nil || read != nil || !bytes.Equal(out.Existing.Data, stands.Data) || out.Sequence != stands.Sequence):
							t.Errorf("%.100s: %+v is told to stand, and %.100q does (%v)", what, out, stands.Data, read)
						}
						if stored != nil && stored.Final && mine {
							t.Errorf("%.100s: a final answer was replaced", what)
						}
					}
				}
			}
		}
	})
}

// A server that is only slow does not hear of each write twice: what its word
// takes is learnt, and forgotten.
func TestASlowServerDoesNotHearOfEachWriteTwice(t *testing.T) {
	wired(t, func(t *testing.T, _ *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log, n := record.New(js, nil), 0
		put := func(times int) {
			for range times {
				n++
				a := named(ok(1), fmt.Sprint("slow-", n))
				if out, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode()); err != nil || !out.Stored {
					t.Fatalf("%+v, %v", out, err)
				}
			}
		}
		put(20)
		w.Break("fetch.put.", brokertest.ReplyLate, 1<<20, 700*time.Millisecond)
		put(100)
		if more := w.Met() - 100; more < 1 || more > 6 {
			t.Errorf("%d of 100 writes were sent again", more)
		}
		w.Mend()
		put(60)
		w.Break("fetch.put.", brokertest.RequestLost, 1, 0)
		began := time.Now()
		put(1)
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("a lost write was sent again after %v, though the server has been quick for long", took)
		}
	})
}

// A write whose word does not come is sent again soon, as an election
// loses it: small ones that expect what they are written over. One that was
// stored, and of which only the word was lost, counts as stored. What would be
// there twice, or would take itself for another's, is sent once.
func TestAWriteThatAnElectionLosesIsSentAgain(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log, sure := record.New(js, nil), record.New(b.JS, nil)
		n := 0
		for fault, name := range map[brokertest.Fault]string{brokertest.RequestLost: "the request", brokertest.ReplyLost: "the reply", brokertest.ReplyLate: "the reply for a while"} {
			for times, most := range map[int]time.Duration{1: 260 * time.Millisecond, 2: 760 * time.Millisecond, 3: 1760 * time.Millisecond, 4: 2760 * time.Millisecond} {
				n++
				log := record.New(js, nil) // which knows of no slow server
				what := fmt.Sprintf("%s lost %d times", name, times)
				a := named(ok(1), fmt.Sprint("small-", n))
				w.Break("fetch.put.", fault, times, 1500*time.Millisecond)
				began := time.Now()
				out, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode())
				took := time.Since(began)
				w.Mend()
				if err != nil || !out.Stored || took > most {
					t.Errorf("%s: %+v, %v after %v", what, out, err, took)
				}
				time.Sleep(5 * time.Second) // what was late has come
				if stands, err := sure.Get(t.Context(), slotOf(a.Identity)); err != nil || stands.Sequence != out.Sequence {
					t.Errorf("%s: %d stands, and %d is told: %v", what, stands.Sequence, out.Sequence, err)
				}
			}
		}

		large := named(ok(1), "large")
		large.Body = bytes.Repeat([]byte("1"), 70<<10)
		w.Break("fetch.put.", brokertest.RequestLost, 1, 0)
		began := time.Now()
		if out, err := log.Put(t.Context(), slotOf(large.Identity), large.Encode()); err != nil || !out.Stored || time.Since(began) < 5*time.Second {
			t.Errorf("a large one: %+v, %v after %v", out, err, time.Since(began))
		}

		first := named(waiting(1, "paused", 1), "swapped")
		if _, err := log.Put(t.Context(), slotOf(first.Identity), first.Encode()); err != nil {
			t.Fatal(err)
		}
		seen, err := log.Get(t.Context(), slotOf(first.Identity))
		if err != nil {
			t.Fatal(err)
		}
		w.Break("fetch.put.", brokertest.ReplyLost, 1, 0)
		if _, err := log.Swap(t.Context(), slotOf(first.Identity), seen.Sequence, named(ok(1), "swapped").Encode()); err == nil || errors.Is(err, record.ErrMoved) {
			t.Errorf("a swap whose word was lost: %v", err)
		}
		w.Mend()

		stream, err := b.JS.Stream(t.Context(), fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		before := stream.CachedInfo().State.LastSeq
		w.Break("fetch.put.", brokertest.ReplyLate, 1, 4*time.Second)
		m := &nats.Msg{Subject: "fetch.put.fmp.quote.alice.appended", Data: []byte("1")}
		if err := log.Append(t.Context(), "append", fetchworker.StreamResults, m); err != nil {
			t.Fatal(err)
		}
		if info, err := stream.Info(t.Context()); err != nil || info.State.LastSeq != before+1 {
			t.Errorf("what is appended is there %d times: %v", info.State.LastSeq-before, err)
		}
	})
}

// While nobody takes a write it is tried again and again, and is stored soon after
// somebody does.
func TestAWriteIsSoonBehindAnElection(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, _ *brokertest.Wire) {
		log := record.New(js, nil)
		for _, away := range []time.Duration{time.Second, 4 * time.Second, 9 * time.Second} {
			if err := b.JS.DeleteStream(t.Context(), fetchworker.StreamResults); err != nil {
				t.Fatal(err)
			}
			stored := make(chan time.Time, 1)
			go func() {
				a := named(ok(1), "soon")
				if _, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode()); err != nil {
					t.Error(err)
				}
				stored <- time.Now()
			}()
			time.Sleep(away)
			back := time.Now()
			if err := broker.Apply(t.Context(), b.JS, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
				t.Fatal(err)
			}
			if took := (<-stored).Sub(back); took > 800*time.Millisecond {
				t.Errorf("stored %v after somebody took it, %v having been away", took, away)
			}
		}
	})
}

// A write that was stored as the connection broke counts as stored, also where
// nobody could ask for so long that it was given up once.
func TestAWriteThatBreaksWithItsConnectionIsOurs(t *testing.T) {
	for _, size := range []int{2, 70 << 10} {
		wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
			log := record.New(js, nil)
			a := named(ok(1), "broken")
			a.Body = bytes.Repeat([]byte("1"), size)
			w.Break("fetch.put.", brokertest.ReplyLost, 1, 0)
			go func() {
				time.Sleep(100 * time.Millisecond)
				w.Cut()
				time.Sleep(6 * time.Second)
				w.Join()
			}()
			out, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode())
			if err != nil || !out.Stored || out.Sequence != 1 {
				t.Errorf("%d bytes: %+v, %v", size, out, err)
			}
		})
	}
}

// A swap waits out a stream that is away for a moment, and is an error where it
// stays away.
func TestASwapIsSoonBehindAnElection(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, _ *brokertest.Wire) {
		log := record.New(js, nil)
		for away, stored := range map[time.Duration]bool{400 * time.Millisecond: true, time.Minute: false} {
			if err := b.JS.DeleteStream(t.Context(), fetchworker.StreamResults); err != nil {
				t.Fatal(err)
			}
			swapped := make(chan error, 1)
			go func() {
				a := named(ok(1), "soon")
				_, err := log.Swap(t.Context(), slotOf(a.Identity), 0, a.Encode())
				swapped <- err
			}()
			time.Sleep(away)
			if err := broker.Apply(t.Context(), b.JS, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
				t.Fatal(err)
			}
			if err := <-swapped; (err == nil) != stored || errors.Is(err, record.ErrMoved) {
				t.Errorf("away for %v: %v", away, err)
			}
		}
	})
}

// A letter that looks like ours may be an earlier one, which is about to be
// acknowledged: it counts as none of ours, and ours is written over it.
func TestAnEarlierLetterIsNotTakenForOurs(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log := record.New(js, nil)
		slot := record.Slot{Stream: fetchworker.StreamResults, Subject: "fetch.result.fmp.quote.alice.letter", Order: record.Letters, Point: "letter"}
		letter := func() *nats.Msg {
			return &nats.Msg{Subject: "fetch.put.fmp.quote.alice.letter", Header: nats.Header{"Fetch-Generation": {"1"}, "Fetch-Calls": {"1"}}, Data: []byte("the same")}
		}
		before, err := log.Put(t.Context(), slot, letter())
		if err != nil || !before.Stored {
			t.Fatal(before, err)
		}
		w.Break("fetch.put.", brokertest.RequestLost, 1, 0)
		after, err := log.Put(t.Context(), slot, letter())
		if err != nil || !after.Stored || after.Sequence <= before.Sequence {
			t.Errorf("stored %+v, then %+v: %v", before, after, err)
		}
	})
}

func ptr[T any](v T) *T { return &v }

// What was seen is what is replaced: nothing lower over it, nothing over
// another that came meanwhile, and what was taken away is no obstacle.
func TestReplaceKnowsWhatItSaw(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	ctx := t.Context()
	put := func(a fetchworker.Answer) record.Seen {
		t.Helper()
		if _, err := log.Put(ctx, slotOf(a.Identity), a.Encode()); err != nil {
			t.Fatal(err)
		}
		seen, err := log.Get(ctx, slotOf(a.Identity))
		if err != nil {
			t.Fatal(err)
		}
		return seen
	}
	final := put(named(ok(1), "final"))
	out, err := log.Replace(ctx, slotOf(named(ok(1), "final").Identity), final, named(waiting(1, "paused", 1), "final").Encode())
	if err != nil || out.Stored || out.Existing == nil || out.Sequence != final.Sequence {
		t.Errorf("lower over final: %+v %v", out, err)
	}
	if again, err := log.Get(ctx, slotOf(named(ok(1), "final").Identity)); err != nil || again.Sequence != final.Sequence {
		t.Errorf("%d stands, not %d: %v", again.Sequence, final.Sequence, err)
	}
	gone := put(named(waiting(1, "paused", 1), "gone"))
	if err := log.Delete(ctx, "take", fetchworker.StreamResults, gone.Sequence); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if out, err = log.Replace(soon, slotOf(named(ok(1), "gone").Identity), gone, named(ok(1), "gone").Encode()); err != nil || !out.Stored {
		t.Errorf("over what was taken away: %+v %v", out, err)
	}
}

// What a stream drops because its message id is a recent one is not stored.
func TestADuplicateIsNotStored(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	m := func() *nats.Msg {
		m := ok(1).Encode()
		m.Header.Set(nats.MsgIdHdr, "once")
		return m
	}
	out, err := log.Put(t.Context(), slotOf(id), m())
	if err != nil || !out.Stored {
		t.Fatalf("%+v %v", out, err)
	}
	if err := log.Delete(t.Context(), "take", fetchworker.StreamResults, out.Sequence); err != nil {
		t.Fatal(err)
	}
	if out, err = log.Put(t.Context(), slotOf(id), m()); !errors.Is(err, record.ErrDuplicate) {
		t.Errorf("%+v %v", out, err)
	}
}

// A stream without room may have some again, whatever status the server says
// it with; a refusal stays one.
func TestNoRoomIsNoRefusal(t *testing.T) {
	for _, code := range []int{400, 500, 503} {
		err := error(&jetstream.APIError{Code: code, ErrorCode: 10002})
		if record.Refused(&record.NoRoomError{Stream: "S", Err: err}) {
			t.Errorf("%d without room is refused", code)
		}
		if record.Refused(err) != (code < 500) {
			t.Errorf("%d is refused: %t", code, record.Refused(err))
		}
	}
}

// Looks that are made together find what stands, or say that they do not know:
// never that nothing stands where something does.
func TestALookNeverMissesWhatStands(t *testing.T) {
	subject := func(n int) string { return fetchworker.ResultSubject(named(ok(1), fmt.Sprint(n)).Identity) }
	store := func(t *testing.T, log *record.Log, n int, body []byte) {
		t.Helper()
		a := named(ok(1), fmt.Sprint(n))
		a.Body = body
		if _, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		stored, size int
		found        int // at least
	}{
		"more than the server tells at once": {25, 500 << 10, 25},
		"more than one look takes":           {1200, 2, 200},
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
				for n := range c.stored {
					store(t, record.New(b.JS, nil), n, bytes.Repeat([]byte("1"), c.size))
				}
				looks, err := record.NewLooks(js, fetchworker.StreamResults)
				if err != nil {
					t.Fatal(err)
				}
				defer looks.Close()
				w.Break("DIRECT.GET", brokertest.ReplyLate, 1, 100*time.Millisecond) // the others gather
				var all sync.WaitGroup
				var mu sync.Mutex
				found := 0
				for n := range c.stored {
					glance := looks.Begin(subject(n))
					all.Go(func() {
						m, err := glance.Wait(t.Context())
						mu.Lock()
						defer mu.Unlock()
						if err == nil && m == nil {
							t.Errorf("%d is not found", n)
						} else if err == nil {
							found++
						}
					})
				}
				all.Wait()
				if found < c.found {
					t.Errorf("%d of %d found", found, c.stored)
				}
			})
		})
	}

	t.Run("an answer that is late", func(t *testing.T) {
		wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
			store(t, record.New(b.JS, nil), 1, []byte("1"))
			looks, err := record.NewLooks(js, fetchworker.StreamResults)
			if err != nil {
				t.Fatal(err)
			}
			defer looks.Close()
			w.Break("DIRECT.GET", brokertest.ReplyLate, 1, 2500*time.Millisecond)
			began := time.Now()
			if m, err := looks.Read(t.Context(), subject(2)); err == nil {
				t.Errorf("an answer that had not come: %v", m)
			}
			if took := time.Since(began); took > 2100*time.Millisecond {
				t.Errorf("a look held its request up for %v", took)
			}
			// The late one comes while the next is under way, and says that there is
			// nothing more.
			w.Break("DIRECT.GET", brokertest.ReplyLate, 1, time.Second)
			if m, err := looks.Read(t.Context(), subject(1)); err != nil || m == nil {
				t.Errorf("%v %v", m, err)
			}
			w.Break("DIRECT.GET", brokertest.ReplyLost, 1, 0)
			if m, err := looks.Read(t.Context(), subject(1)); err == nil {
				t.Errorf("an answer that never came: %v", m)
			}
		})
	})
}

// However many of one provider wait to be looked for, another's is looked for at
// once beside them.
func TestACrowdOfOneProviderDelaysNoOthersLook(t *testing.T) {
	wired(t, func(t *testing.T, b *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		of := func(provider string, n int) string {
			a := named(ok(1), fmt.Sprint(n))
			a.Identity.Provider = provider
			if _, err := record.New(b.JS, nil).Put(t.Context(), slotOf(a.Identity), a.Encode()); err != nil {
				t.Fatal(err)
			}
			return fetchworker.ResultSubject(a.Identity)
		}
		const crowd, takes = 300, 100 * time.Millisecond
		var many []string
		for n := range crowd {
			many = append(many, of("fmp", n))
		}
		others := []string{of("polygon", 1), of("fred", 1), of("sec", 1), of("sec", 2)}
		later := of("later", 1) // one more than go at once
		looks, err := record.NewLooks(js, fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		defer looks.Close()
		w.Break("DIRECT.GET", brokertest.ReplyLate, 1<<20, takes)
		began := time.Now()
		var all sync.WaitGroup
		var mu sync.Mutex
		without := 0
		wait := func(g record.Glance, within time.Duration) {
			all.Go(func() {
				m, err := g.Wait(t.Context())
				took := time.Since(began)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil && within == 0:
					without++
				case err != nil || m == nil:
					t.Errorf("%v %v", m, err)
				case within > 0 && took > within:
					t.Errorf("another's look took %v", took)
				}
			})
		}
		for _, subject := range many {
			wait(looks.Begin(subject), 0)
		}
		for _, subject := range others {
			wait(looks.Begin(subject), takes+takes/2) // its own
		}
		wait(looks.Begin(later), 2*takes+takes/2) // the look under way, and the next
		all.Wait()
		// None of them is left behind: the next crowd's neighbours go as these did.
		began = time.Now()
		for n, subject := range many[:100] {
			wait(looks.Begin(subject), time.Second)
			if n == 50 {
				wait(looks.Begin(others[0]), takes+takes/2)
			}
		}
		all.Wait()
		if without == 0 || without > crowd-200 {
			t.Errorf("%d of %d went without", without, crowd)
		}
	})
}

// Writes under way end with their connection, whoever closes it: nobody is left
// who could say what became of them. No goroutine sits its five seconds out.
func TestAClosedConnectionEndsItsWrites(t *testing.T) {
	wired(t, func(t *testing.T, _ *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log := record.New(js, nil)
		w.Break("fetch.put.", brokertest.ReplyLost, 1<<20, 0)
		const writes = 10
		var all sync.WaitGroup
		start := time.Now()
		for i := range writes {
			all.Go(func() {
				a := named(ok(1), fmt.Sprint(i))
				_, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode())
				if !errors.Is(err, nats.ErrConnectionClosed) || !record.Refused(err) {
					t.Errorf("a write over a closed connection: %v", err)
				}
			})
		}
		time.Sleep(time.Second)
		js.Conn().Close()
		all.Wait()
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("they ended %v after the connection", took-time.Second)
		}
		// And the next does not begin to wait.
		a := named(ok(1), "later")
		if _, err := log.Put(t.Context(), slotOf(a.Identity), a.Encode()); !errors.Is(err, nats.ErrConnectionClosed) || time.Since(start) > 1500*time.Millisecond {
			t.Errorf("a write after that: %v", err)
		}
	})
}

// Whoever gives up waits no longer, whatever it waits for: a stop does not take
// as long as a write is tried.
func TestWhoGivesUpWaitsNoLonger(t *testing.T) {
	wired(t, func(t *testing.T, _ *brokertest.Broker, js jetstream.JetStream, w *brokertest.Wire) {
		log := record.New(js, nil)
		looks, err := record.NewLooks(js, fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		defer looks.Close()
		for name, act := range map[string]func(ctx context.Context) error{
			"put":    func(ctx context.Context) error { _, err := log.Put(ctx, slotOf(id), ok(1).Encode()); return err },
			"swap":   func(ctx context.Context) error { _, err := log.Swap(ctx, slotOf(id), 0, ok(1).Encode()); return err },
			"append": func(ctx context.Context) error { return log.Append(ctx, "", fetchworker.StreamResults, ok(1).Encode()) },
			"delete": func(ctx context.Context) error { return log.Delete(ctx, "", fetchworker.StreamResults, 1) },
			"last": func(ctx context.Context) error {
				_, err := log.Last(ctx, fetchworker.StreamResults, fetchworker.ResultSubject(id))
				return err
			},
			"next": func(ctx context.Context) error {
				_, err := log.Next(ctx, fetchworker.StreamResults, ">", 1)
				return err
			},
			"count": func(ctx context.Context) error {
				_, err := log.Count(ctx, fetchworker.StreamResults, ">", 1)
				return err
			},
			"page": func(ctx context.Context) error {
				_, err := log.Page(ctx, fetchworker.StreamResults, ">", 1, 3)
				return err
			},
			"span": func(ctx context.Context) error { _, err := log.Span(ctx, fetchworker.StreamResults, 1, 3); return err },
			"look": func(ctx context.Context) error { _, err := looks.Read(ctx, fetchworker.ResultSubject(id)); return err },
		} {
			for _, at := range []time.Duration{0, 100 * time.Millisecond, 1300 * time.Millisecond, 7100 * time.Millisecond, 11200 * time.Millisecond} {
				w.Break("", brokertest.RequestLost, 1<<20, 0)
				ctx, cancel := context.WithTimeout(t.Context(), at)
				began := time.Now()
				err := act(ctx)
				cancel()
				if took := time.Since(began); err == nil || took > at {
					t.Errorf("%s, given up after %v: %v after %v", name, at, err, took)
				}
				w.Mend()
			}
		}
	})
}
