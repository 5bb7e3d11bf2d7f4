package record_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"
)

func letter(generation, calls int) record.Message {
	h := nats.Header{}
	h.Set(wire.HeaderGeneration, strconv.Itoa(generation))
	h.Set(wire.HeaderCalls, strconv.Itoa(calls))
	return record.Message{Header: h}
}

func slotOf(i fetchworker.Identity) record.Slot {
	return record.Slot{Stream: fetchworker.StreamResults, Subject: fetchworker.ResultSubject(i), Order: record.Answers, Point: "answer"}
}

// seen are the answers of each request in the order in which they were stored,
// as a live subscriber sees them.
type seen struct {
	mu   sync.Mutex
	all  map[string][]fetchworker.Answer
	last uint64        // sequence
	more chan struct{} // something was seen
}

func (s *seen) see(m *nats.Msg) {
	a, err := fetchworker.DecodeAnswer(m.Subject, m.Header, m.Data)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[a.Identity.String()] = append(s.all[a.Identity.String()], a)
	s.last, _ = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// of waits until all up to a sequence is seen, and returns what a request got.
func (s *seen) of(ctx context.Context, i fetchworker.Identity, sequence uint64) []fetchworker.Answer {
	for {
		s.mu.Lock()
		last, answers := s.last, s.all[i.String()]
		s.mu.Unlock()
		if last >= sequence {
			return answers
		}
		select {
		case <-s.more:
		case <-ctx.Done():
			return answers
		}
	}
}

// randomAnswer draws any answer that a worker, a replayer or a person writes.
func randomAnswer(i fetchworker.Identity) *rapid.Generator[fetchworker.Answer] {
	return rapid.Custom(func(t *rapid.T) fetchworker.Answer {
		generation := rapid.IntRange(1, 3).Draw(t, "generation")
		var a fetchworker.Answer
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			a = ok(generation)
		case 1:
			a = failed(generation, false)
		case 2:
			a = failed(generation, true)
		case 3:
			a = stale(generation, rapid.Bool().Draw(t, "final"))
		default:
			reasons := []fetchworker.Reason{fetchworker.ReasonPaused, fetchworker.ReasonCircuitOpen}
			a = waiting(generation, rapid.SampledFrom(reasons).Draw(t, "reason"), rapid.IntRange(0, 3).Draw(t, "minutes"))
		}
		a.Identity = i
		return a
	})
}

// Several writers write answers of one request in any order, again and again.
// What is stored only ever goes up; what stays is the highest that any of
// them wrote, a final answer that is not in review never changes, and no
// request gets a second ok.
func TestAnyWritersAnyOrder(t *testing.T) {
	dir := t.TempDir()
	// In a bubble no write is given up for want of time, whatever else the
	// machine does.
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		anyWritersAnyOrder(t, b)
	})
}

// noDeadline is a test that does not say when it has to be over: in a bubble
// it may not be asked.
type noDeadline struct{ rapid.TB }

func anyWritersAnyOrder(t *testing.T, b *brokertest.Broker) {
	s := &seen{all: map[string][]fetchworker.Answer{}, more: make(chan struct{}, 1)}
	sub, err := b.NC.Subscribe("fetch.result.>", s.see)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var logs []*record.Log
	for range 3 {
		nc := b.Connect(t)
		defer nc.Close() //nolint:revive // all three write until the end
		js, err := broker.JetStream(nc)
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, record.New(js, nil))
	}
	round := 0
	rapid.Check(noDeadline{t}, func(rt *rapid.T) {
		round++
		i := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprintf("r-%d", round)}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		scripts := make([][]fetchworker.Answer, len(logs))
		var written []fetchworker.Answer
		for w := range logs {
			scripts[w] = rapid.SliceOfN(randomAnswer(i), 1, 6).Draw(rt, fmt.Sprintf("writer %d", w))
			written = append(written, scripts[w]...)
		}
		var writers sync.WaitGroup
		errs := make([]error, len(logs))
		for w, log := range logs {
			writers.Go(func() {
				for _, a := range scripts[w] {
					_, err := log.Put(ctx, slotOf(i), a.Encode())
					errs[w] = errors.Join(errs[w], err)
				}
			})
		}
		writers.Wait()
		if err := errors.Join(errs...); err != nil {
			rt.Fatal(err)
		}
		m, err := logs[0].Last(ctx, fetchworker.StreamResults, fetchworker.ResultSubject(i))
		if err != nil {
			rt.Fatal(err)
		}
		stays, err := fetchworker.DecodeAnswer(fetchworker.ResultSubject(i), m.Header, m.Data)
		if err != nil {
			rt.Fatal(err)
		}
		history := s.of(ctx, i, m.Sequence)
		for _, a := range written {
			if record.AnswerReplaces(stays, a) && !flipped(history, stays, a) {
				rt.Errorf("%s %d stays, though %s %d was written", stays.Status, stays.Generation, a.Status, a.Generation)
			}
		}
		oks := 0
		for n, a := range history {
			if a.Status == fetchworker.StatusOK {
				oks++
			}
			if n > 0 && !record.AnswerReplaces(history[n-1], a) {
				rt.Errorf("%s %d was replaced by %s %d", history[n-1].Status, history[n-1].Generation, a.Status, a.Generation)
			}
		}
		if oks > 1 {
			rt.Errorf("%d times ok", oks)
		}
		if len(history) == 0 || history[len(history)-1].Generation != stays.Generation || history[len(history)-1].Status != stays.Status {
			rt.Errorf("the last of %d seen live is not what stays", len(history))
		}
	})
}

// flipped: of two waiting answers with different reasons each replaces the
// other. Where both kinds stood, what stays may be any of them.
func flipped(history []fetchworker.Answer, stays, a fetchworker.Answer) bool {
	waits := func(b fetchworker.Answer) bool { return b.Generation == stays.Generation && b.Rank() == 1 }
	return waits(stays) && waits(a) && slices.ContainsFunc(history, func(b fetchworker.Answer) bool {
		return waits(b) && b.Problem.Reason() != stays.Problem.Reason()
	})
}

// The same for letters, while others take them away as an acknowledgement
// does: what stays is never lower than what was written last and not taken.
func TestLettersUnderAnyWriters(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		i := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprintf("r-%d", round)}
		subject := wire.DLQSubject(fetchworker.LaneBatch, i)
		slot := record.Slot{Stream: wire.StreamDLQ, Subject: subject, Order: record.Letters, Point: "letter"}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var stands *[2]int
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if stands != nil && rapid.IntRange(0, 3).Draw(rt, "take") == 0 {
				m, err := log.Last(ctx, slot.Stream, subject)
				if err != nil {
					rt.Fatal(err)
				}
				for range 2 { // again is no error
					if err := log.Delete(ctx, "ack", slot.Stream, m.Sequence); err != nil {
						rt.Fatal(err)
					}
				}
				stands = nil
				continue
			}
			next := [2]int{rapid.IntRange(1, 2).Draw(rt, "generation"), rapid.IntRange(0, 3).Draw(rt, "calls")}
			m := nats.NewMsg(subject)
			m.Header = letter(next[0], next[1]).Header
			out, err := log.Put(ctx, slot, m)
			if err != nil {
				rt.Fatal(err)
			}
			want := stands == nil || next[0] > stands[0] || next[0] == stands[0] && next[1] >= stands[1]
			if out.Stored != want || !want && out.Existing == nil {
				rt.Fatalf("%v over %v: stored %t", next, stands, out.Stored)
			}
			if want {
				stands = &next
			}
			got, err := log.Get(ctx, slot)
			if err != nil {
				rt.Fatal(err)
			}
			if got.Header.Get(wire.HeaderGeneration) != strconv.Itoa(stands[0]) || got.Header.Get(wire.HeaderCalls) != strconv.Itoa(stands[1]) {
				rt.Fatalf("%v stands, want %v", got.Header, *stands)
			}
		}
	})
}

func TestReading(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	ctx := t.Context()
	if _, err := log.Last(ctx, fetchworker.StreamResults, fetchworker.ResultSubject(id)); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("last of nothing: %v", err)
	}
	if _, err := log.Next(ctx, fetchworker.StreamResults, "fetch.result.>", 1); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("next of nothing: %v", err)
	}
	before := time.Now().Add(-time.Second)
	var ids []fetchworker.Identity
	for _, agent := range []string{"alice", "bob", "alice"} {
		i := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent, ID: fmt.Sprint(len(ids))}
		a := ok(1)
		a.Identity = i
		if _, err := log.Put(ctx, slotOf(i), a.Encode()); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, i)
	}
	m, err := log.Next(ctx, fetchworker.StreamResults, "fetch.result.*.*.alice.>", 2)
	if err != nil || m.Subject != fetchworker.ResultSubject(ids[2]) || m.Sequence != 3 || m.Time.Before(before) || m.Time.After(time.Now().Add(time.Second)) {
		t.Errorf("next of alice: %+v %v", m, err)
	}
	m, err = log.Last(ctx, fetchworker.StreamResults, fetchworker.ResultSubject(ids[1]))
	if err != nil || m.Sequence != 2 || string(m.Data) != "{}" || m.Header.Get(wire.HeaderStatus) != "ok" {
		t.Errorf("last of bob: %+v %v", m, err)
	}
	if _, err := log.Last(ctx, "FETCH_NOTHING", "x"); err == nil {
		t.Error("a stream that does not exist can be read")
	}
	if _, err := log.Span(ctx, "FETCH_NOTHING", 1, 3); err == nil {
		t.Error("a span of a stream that does not exist can be read")
	}
	if _, err := log.Page(ctx, "FETCH_NOTHING", ">", 1, 3); err == nil {
		t.Error("a page of a stream that does not exist can be read")
	}
	if _, err := log.Count(ctx, "FETCH_NOTHING", ">", 1); err == nil {
		t.Error("what a stream that does not exist holds can be counted")
	}
	for filter, counts := range map[string]map[uint64]uint64{
		"fetch.result.>":                  {1: 3, 2: 2, 3: 1, 4: 0},
		"fetch.result.*.*.alice.>":        {1: 2, 2: 1, 4: 0},
		"fetch.result.*.*.nobody.>":       {1: 0},
		fetchworker.ResultSubject(ids[1]): {1: 1},
	} {
		for from, want := range counts {
			if n, err := log.Count(ctx, fetchworker.StreamResults, filter, from); n != want || err != nil {
				t.Errorf("%d of %s from %d on, and there are %d: %v", n, filter, from, want, err)
			}
		}
	}
	if err := log.Delete(ctx, "", fetchworker.StreamResults, 2); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[uint64][]uint64{1: {1, 3}, 2: {3}, 3: {3}, 4: nil} {
		var got []uint64
		found, err := log.Span(ctx, fetchworker.StreamResults, from, 3)
		for _, raw := range found {
			got = append(got, raw.Sequence)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("three from %d: %v %v, want %v", from, got, err, want)
		}
		for _, raw := range found {
			if raw.Subject != fetchworker.ResultSubject(ids[raw.Sequence-1]) || string(raw.Data) != "{}" {
				t.Errorf("%d is %+v", raw.Sequence, raw)
			}
		}
	}
}

// What a publisher makes up of the headers that a server adds is not believed,
// whoever reads it.
func TestMadeUpHeadersOfTheServersAreNotBelieved(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	subject := fetchworker.ResultSubject(id)
	m := nats.NewMsg("fetch.put." + subject[len("fetch.result."):])
	for name, value := range map[string]string{
		jetstream.SequenceHeader: "999", jetstream.SubjectHeader: "fetch.result.a.b.c.d", jetstream.StreamHeader: "OTHER",
		jetstream.TimeStampHeaer: "2001-01-01T00:00:00Z", "Nats-Num-Pending": "77", "Nats-Last-Sequence": "7", "Status": "404", "Description": "none",
	} {
		m.Header.Set(name, value)
	}
	if _, err := b.JS.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	looks, err := record.NewLooks(b.JS, fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	defer looks.Close()
	for name, read := range map[string]func() (record.Raw, error){
		"last": func() (record.Raw, error) { return log.Last(t.Context(), fetchworker.StreamResults, subject) },
		"next": func() (record.Raw, error) { return log.Next(t.Context(), fetchworker.StreamResults, ">", 1) },
		"page": func() (record.Raw, error) {
			page, err := log.Page(t.Context(), fetchworker.StreamResults, ">", 1, 3)
			return first(page), err
		},
		"span": func() (record.Raw, error) {
			span, err := log.Span(t.Context(), fetchworker.StreamResults, 1, 2)
			return first(span), err
		},
		"look": func() (record.Raw, error) {
			m, err := looks.Read(t.Context(), subject)
			if m == nil || err != nil {
				return record.Raw{}, err
			}
			return record.Direct(m)
		},
		"looks": func() (record.Raw, error) {
			hold, other := looks.Begin("fetch.result.x.x.x.x"), looks.Begin(subject) // the first goes alone
			if _, err := hold.Wait(t.Context()); err != nil {
				return record.Raw{}, err
			}
			m, err := other.Wait(t.Context())
			if m == nil || err != nil {
				return record.Raw{}, err
			}
			return record.Direct(m)
		},
	} {
		raw, err := read()
		if err != nil || raw.Sequence != 1 || raw.Subject != subject || raw.Time.Year() == 2001 {
			t.Errorf("%s: %+v %v", name, raw, err)
		}
	}
	if n, err := log.Count(t.Context(), fetchworker.StreamResults, ">", 1); n != 1 || err != nil {
		t.Errorf("%d are counted: %v", n, err)
	}
}

func first(all []record.Raw) (one record.Raw) {
	if len(all) == 1 {
		one = all[0]
	}
	return one
}

// A hook stops a step before it is made, or hides that it was.
func TestHooks(t *testing.T) {
	b := brokertest.Start(t)
	crash := errors.New("crash")
	for _, c := range []struct {
		name      string
		persisted bool
	}{{"before", false}, {"after", true}} {
		t.Run(c.name, func(t *testing.T) {
			log := record.New(b.JS, func(point string, persisted bool) error {
				if point == "answer" && persisted == c.persisted {
					return crash
				}
				return nil
			})
			i := id
			i.ID = c.name
			a := ok(1)
			a.Identity = i
			if _, err := log.Put(t.Context(), slotOf(i), a.Encode()); !errors.Is(err, crash) {
				t.Errorf("put: %v", err)
			}
			_, err := log.Get(t.Context(), slotOf(i))
			if stored := err == nil; stored != c.persisted {
				t.Errorf("stored: %t (%v)", stored, err)
			}
			// Done again, it is what was wanted either way.
			calm := record.New(b.JS, nil)
			out, err := calm.Put(t.Context(), slotOf(i), a.Encode())
			if err != nil || out.Stored == c.persisted || out.Stored != (out.Existing == nil) {
				t.Errorf("again: %+v %v", out, err)
			}
		})
	}
}

// What could not be deleted is not gone, whatever the server's word for that
// is; what another has deleted is.
func TestWhatCannotBeDeletedIsNotGone(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	if _, err := b.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}, DenyDelete: true}); err != nil {
		t.Fatal(err)
	}
	if err := log.Append(t.Context(), "", "KEPT", nats.NewMsg("kept")); err != nil {
		t.Fatal(err)
	}
	if err := log.Delete(t.Context(), "", "KEPT", 1); err == nil {
		t.Error("what lies there counts as deleted")
	}
	if err := log.Delete(t.Context(), "", "KEPT", 2); err != nil {
		t.Errorf("what does not lie there: %v", err)
	}
}

// What no try can mend is tried once.
func TestWhatNoTryCanMendIsTriedOnce(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	for name, limit := range map[string]jetstream.StreamConfig{
		"FULL":  {MaxMsgs: 1, Discard: jetstream.DiscardNew},
		"SMALL": {MaxMsgSize: 10},
	} {
		limit.Name, limit.Subjects = name, []string{name}
		if _, err := b.JS.CreateStream(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		heard, err := b.NC.SubscribeSync(name)
		if err != nil {
			t.Fatal(err)
		}
		write := func(n int) error {
			return log.Append(t.Context(), "", name, &nats.Msg{Subject: name, Header: nats.Header{}, Data: make([]byte, n)})
		}
		if name == "FULL" {
			if err := write(1); err != nil {
				t.Fatal(err)
			}
			if _, err := heard.NextMsg(time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(1000); err == nil {
			t.Errorf("%s: stored", name)
		}
		if err := b.NC.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, _, err := heard.Pending(); n != 1 || err != nil {
			t.Errorf("%s: tried %d times, %v", name, n, err)
		}
		_ = heard.Unsubscribe()
	}
}

// What the stream refuses is an error at once, not after twenty seconds.
func TestARefusalIsFinal(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	start := time.Now()
	slot := slotOf(id)
	slot.Stream = wire.StreamDLQ // not where the subject is stored
	if _, err := log.Put(t.Context(), slot, ok(1).Encode()); err == nil {
		t.Error("stored")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Whoever reads or writes leaves nothing behind on its connection, whether it
// heard of it, was told that there is nothing, or gave up.
func TestNothingIsLeftBehind(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	all := func(ctx context.Context, stream string) {
		looks, err := record.NewLooks(b.JS, stream)
		if err != nil {
			t.Fatal(err)
		}
		defer looks.Close()
		_, _ = log.Put(ctx, slotOf(id), ok(1).Encode())
		_, _ = log.Swap(ctx, slotOf(id), 9, ok(1).Encode())
		_ = log.Append(ctx, "", stream, ok(1).Encode())
		_, _ = log.Last(ctx, stream, fetchworker.ResultSubject(id))
		_, _ = log.Next(ctx, stream, ">", 1)
		_, _ = log.Count(ctx, stream, ">", 1)
		_, _ = log.Page(ctx, stream, ">", 1, 3)
		_, _ = log.Span(ctx, stream, 1, 3)
		_, _ = looks.Read(ctx, fetchworker.ResultSubject(id))
		_ = log.Delete(ctx, "", stream, 99)
	}
	all(t.Context(), fetchworker.StreamResults) // what is made once
	before := b.NC.NumSubscriptions()
	for name, ctx := range map[string]context.Context{"at work": t.Context(), "given up": gone} {
		for _, stream := range []string{fetchworker.StreamResults, "FETCH_BODIES"} {
			if all(ctx, stream); b.NC.NumSubscriptions() != before {
				t.Fatalf("%s, %s: %d subscriptions, and there were %d", name, stream, b.NC.NumSubscriptions(), before)
			}
		}
	}
}

// The values of a header may be another message's, too: what is made plain for
// one stays as it is for the other.
func TestAHeaderOfAnotherMessageStaysAsItIs(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	values := []string{"plain", "caf\u00e9", "\u201cso\u201d"}
	shared := slices.Clone(values)
	for name, say := range map[string]func(*nats.Msg) error{
		"stored": func(m *nats.Msg) error { _, err := log.Put(t.Context(), slotOf(id), m); return err },
		"sent":   func(m *nats.Msg) error { m.Subject = "somebody"; return log.Send(m) },
	} {
		m := ok(1).Encode()
		m.Header["X-Shared"] = shared
		if err := say(m); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(shared, values) {
			t.Errorf("%s: the other message has %q by now", name, shared)
		}
	}
}

// What is sent and stored nowhere is as plain as what is stored.
func TestWhatIsSentHasPlainHeaders(t *testing.T) {
	b := brokertest.Start(t)
	heard, err := b.NC.SubscribeSync("somebody")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = heard.Unsubscribe() }()
	m := nats.NewMsg("somebody")
	m.Header.Set("X-Text", "\u201ccaf\u00e9\u201d")
	if err := record.New(b.JS, nil).Send(m); err != nil {
		t.Fatal(err)
	}
	if got, err := heard.NextMsg(5 * time.Second); err != nil || got.Header.Get("X-Text") != `"caf?"` {
		t.Errorf("%v, %v", got, err)
	}
}
