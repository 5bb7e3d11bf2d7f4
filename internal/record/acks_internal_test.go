package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What is cut out of a stream's word is what the document says, and whatever is
// not the usual word is read as a document.
func TestAStreamsWord(t *testing.T) {
	for _, said := range []string{
		`{"stream":"FETCH_RESULTS","seq":123}`,
		`{"stream":"FETCH_RESULTS","seq":18446744073709551615}`,
		`{"stream":"FETCH_RESULTS", "seq":7}`,
		`{"stream":"FETCH_RESULTS","seq":7,"duplicate":true}`,
		`{"stream":"FETCH_RESULTS","domain":"hub","seq":7}`,
		`{"stream":"A\",\"seq\":9","seq":7}`,
		`{"stream":"FETCH_USAGE","seq":7,"val":"3"}`,
	} {
		var want jetstream.PubAck
		if err := json.Unmarshal([]byte(said), &want); err != nil {
			t.Fatal(err)
		}
		got, err := ackOf([]byte(said))
		if err != nil || got.Sequence != want.Sequence || got.Duplicate != want.Duplicate {
			t.Errorf("%s: %+v, %v", said, got, err)
		}
	}
	for _, said := range []string{``, `{}`, `{"seq":7}`, `{"stream":"","seq":7}`, `{"stream":"A","seq":-7}`, `{"stream":"A","seq":7`, `+OK`} {
		if _, err := ackOf([]byte(said)); !errors.Is(err, jetstream.ErrInvalidJSAck) {
			t.Errorf("%s: %v", said, err)
		}
	}
	_, err := ackOf([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"A","seq":0}`))
	if !isConflict(err) {
		t.Errorf("a conflict: %v", err)
	}
}

// Each write hears the word that is said of it, and no other: whatever comes
// twice, late, or to a write that has been given up.
func TestEachWriteHearsItsOwnWord(t *testing.T) {
	nc := brokertest.Start(t).NC
	word := func(m *nats.Msg) { _ = m.Respond(fmt.Appendf(nil, `{"stream":"S","seq":%s}`, m.Data)) }
	sub, err := nc.Subscribe("write", func(m *nats.Msg) {
		for range rand.IntN(3) {
			word(m)
		}
		time.AfterFunc(time.Duration(rand.IntN(4))*time.Millisecond, func() { word(m) })
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	a := newAcks(nc)
	var all sync.WaitGroup
	for writer := range 16 {
		all.Go(func() {
			for n := range 100 {
				number := 1 + writer*1000 + n
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
				ack, _, err := a.publish(ctx, &nats.Msg{Subject: "write", Data: []byte(strconv.Itoa(number))}, false)
				cancel()
				if err == nil && ack.Sequence != uint64(number) {
					t.Errorf("the write %d heard of %d", number, ack.Sequence)
				}
			}
		})
	}
	all.Wait()
	ack, _, err := a.publish(t.Context(), &nats.Msg{Subject: "write", Data: []byte("77777")}, false)
	if err != nil || ack.Sequence != 77777 {
		t.Errorf("the last: %+v %v", ack, err)
	}
}

// A word that comes in the moment in which its write is given up is not the
// next one's; a second word is nobody's; and what ends an earlier subscription
// ends none of a later one's writes.
func TestAWordIsOfOneWrite(t *testing.T) {
	a := newAcks(brokertest.Start(t).NC)
	begin := func() (*write, string, string) {
		w, token, reply, err := a.begin(time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return w, token, reply
	}
	w, token, reply := begin()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		a.take(&nats.Msg{Subject: reply})
		a.take(&nats.Msg{Subject: reply})
	}()
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	select {
	case <-heard:
	case <-soon.Done():
		t.Fatal("a second word holds up all")
	}
	a.end(token, w)
	next, token, reply := begin()
	if next != w {
		t.Fatal("another place was taken")
	}
	a.closed(a.inbox[:len(a.inbox)-2] + ".")
	select {
	case m := <-next.said:
		t.Errorf("the next write heard %v", m)
	default:
	}
	a.end(token, next)
	a.take(&nats.Msg{Subject: reply}) // which comes when it has been given up
	last, token, _ := begin()
	select {
	case m := <-last.said:
		t.Errorf("the last write heard %v", m)
	default:
	}
	if last != next || len(a.waiting) != 1 {
		t.Errorf("%d writes wait for a word", len(a.waiting))
	}
	a.end(token, last)
}

// What a stream says of a write, and what comes of it.
func TestWhatAStreamSays(t *testing.T) {
	b := brokertest.Start(t)
	for code, want := range map[jetstream.ErrorCode]string{
		accountFull: "no room", serverFull: "no room", storageFull: "no room", storeFailed: "no room",
		jetstream.JSErrCodeStreamWrongLastSequence: "conflict", sequenceInProcess: "conflict",
		ttlDisabled: "refused", 10060: "refused", 10003: "refused",
	} {
		for _, status := range []int{400, 503} {
			sub, err := b.NC.Subscribe("said", func(m *nats.Msg) {
				_ = m.Respond(fmt.Appendf(nil, `{"error":{"code":%d,"err_code":%d,"description":"so"},"stream":"S","seq":0}`, status, code))
			})
			if err != nil {
				t.Fatal(err)
			}
			log := New(b.JS, nil)
			_, _, err = log.publish(t.Context(), "S", nats.NewMsg("said"), 0, true)
			var full *NoRoomError
			got := "unknown"
			switch {
			case errors.As(err, &full) && full.Stream == "S" && !Refused(err):
				got = "no room"
			case isConflict(err):
				got = "conflict"
			case Refused(err):
				got = "refused"
			}
			if got != want && (status < 500 || want != "refused" || got != "unknown") {
				t.Errorf("%d with %d is %s, want %s: %v", code, status, got, want, err)
			}
			_ = sub.Unsubscribe()
		}
	}
}

// What the server refuses to read is not read as nothing, whoever asks.
func TestWhatCannotBeReadIsNotNothing(t *testing.T) {
	b := brokertest.Start(t)
	for _, subject := range []string{"$JS.API.DIRECT.GET.SAID", "$JS.API.DIRECT.GET.SAID.>"} {
		sub, err := b.NC.Subscribe(subject, func(m *nats.Msg) {
			_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"408"}, "Description": {"Bad Request"}}})
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	log := New(b.JS, nil)
	looks, err := NewLooks(b.JS, "SAID")
	if err != nil {
		t.Fatal(err)
	}
	defer looks.Close()
	for name, read := range map[string]func() error{
		"last":  func() error { _, err := log.Last(t.Context(), "SAID", "a"); return err },
		"next":  func() error { _, err := log.Next(t.Context(), "SAID", "a", 1); return err },
		"count": func() error { _, err := log.Count(t.Context(), "SAID", "a", 1); return err },
		"page":  func() error { _, err := log.Page(t.Context(), "SAID", "a", 1, 3); return err },
		"span":  func() error { _, err := log.Span(t.Context(), "SAID", 1, 3); return err },
		"look":  func() error { _, err := looks.Read(t.Context(), "a"); return err },
	} {
		if err := read(); err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whether a write may have been stored before the word that is heard of it was
// said: it may once it was sent twice, whatever is said after that.
func TestWhatMayHaveBeenStoredIsUnsure(t *testing.T) {
	const stored, conflict, unheard, busy, nothing = `{"stream":"S","seq":7}`, `{"error":{"code":400,"err_code":10071}}`, "503", `{"error":{"code":400,"err_code":10164}}`, ""
	for name, c := range map[string]struct {
		once   bool     // it may not be sent again
		said   []string // to each time that it is sent
		unsure bool
		want   func(error) bool
	}{
		"stored at once":                       {said: []string{stored}},
		"a conflict at once":                   {said: []string{conflict}, want: isConflict},
		"a word to the second":                 {said: []string{nothing, conflict}, unsure: true, want: isConflict},
		"a word to the third":                  {said: []string{nothing, nothing, stored}, unsure: true},
		"nobody there, then stored":            {said: []string{unheard, stored}},
		"nobody there, then a conflict":        {said: []string{unheard, conflict}, want: isConflict},
		"sent twice, then nobody there":        {said: []string{nothing, unheard, conflict}, unsure: true, want: isConflict},
		"nobody there, then sent twice":        {said: []string{unheard, nothing, conflict}, unsure: true, want: isConflict},
		"another's way, when sent once":        {said: []string{busy}, want: isBusy},
		"its own way, when sent twice":         {said: []string{nothing, busy, stored}, unsure: true},
		"nobody there at all":                  {said: []string{unheard, unheard, unheard}, want: isNotHeard},
		"sent twice, then nobody there at all": {said: []string{nothing, unheard, unheard, unheard}, unsure: true, want: isNotHeard},
		"no word, once":                        {once: true, said: []string{nothing}, want: func(err error) bool { return errors.Is(err, errLate) }},
		"nobody there, then no word, once":     {once: true, said: []string{unheard, nothing}, want: func(err error) bool { return errors.Is(err, errLate) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.Start(t)
				defer b.Stop()
				var sent atomic.Int32
				sub, err := b.NC.Subscribe("write", func(m *nats.Msg) {
					said := nothing
					if n := int(sent.Add(1)); n <= len(c.said) {
						said = c.said[n-1]
					}
					switch said {
					case nothing:
					case unheard:
						_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"503"}}})
					default:
						_ = m.Respond([]byte(said))
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = sub.Unsubscribe() }()
				ack, unsure, err := newAcks(b.NC).publish(t.Context(), &nats.Msg{Subject: "write", Data: []byte("1")}, !c.once)
				if c.want == nil && (err != nil || ack.Sequence != 7) || c.want != nil && !c.want(err) {
					t.Errorf("%+v, %v", ack, err)
				}
				if n := int(sent.Load()); unsure != c.unsure || n != len(c.said) {
					t.Errorf("unsure %t, sent %d times", unsure, n)
				}
			})
		})
	}
}

func isNotHeard(err error) bool { return errors.Is(err, jetstream.ErrNoStreamResponse) }

// A look that has ended ends no other, when its time runs out in the moment in
// which its answer comes.
func TestALookEndsOnce(t *testing.T) {
	b := brokertest.Start(t)
	s, err := NewLooks(b.JS, "S")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first, second := s.Begin("a.b.fmp.1"), s.Begin("a.b.fmp.2")
	s.mu.Lock()
	if s.asked == first.look { // else its answer has come
		s.end(first.look, nil)
	}
	if s.asked == nil && len(s.next) > 0 {
		t.Error("the next look is not made")
	}
	s.asked = second.look // and under way, whatever its answer
	s.end(first.look, errLook)
	if s.asked != second.look {
		t.Error("the next look has ended with the first")
	}
	s.mu.Unlock()
}

// What is looked for beside a crowd ends by itself, once, and neither ends the
// crowd's look nor begins another; without an answer it waits no longer than any.
func TestALookBesideACrowdEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		defer b.Stop()
		sub, err := b.NC.Subscribe("$JS.API.DIRECT.GET.S.>", func(*nats.Msg) {}) // nobody answers
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sub.Unsubscribe() }()
		multi, err := b.NC.Subscribe("$JS.API.DIRECT.GET.S", func(*nats.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = multi.Unsubscribe() }()
		s, err := NewLooks(b.JS, "S")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		began := time.Now()
		for n := range 2 * looksCrowd {
			s.Begin("a.b.fmp." + strconv.Itoa(n))
		}
		one, own := s.Begin("a.b.fred.1"), s.Begin("a.b.fmp.own")
		s.mu.Lock()
		besides := len(s.beside)
		if one.look == s.asked || own.look == one.look || besides != 1 {
			t.Errorf("%d looks beside", besides)
		}
		s.mu.Unlock()
		if _, err := one.Wait(t.Context()); !errors.Is(err, errLook) || time.Since(began) != lookLasts {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		under := s.asked
		s.end(one.look, nil)
		if len(s.beside) != 0 || s.asked != under || under == nil || under == one.look {
			t.Error("what was looked for beside the crowd has ended the crowd's")
		}
		s.end(under, nil)
	})
}

// What is silent is told of each stream by itself.
func TestSilenceIsOfOneStream(t *testing.T) {
	log := New(brokertest.Start(t).JS, nil)
	for n, c := range []struct {
		begins, ends string
		silent       string
	}{
		{silent: ""},
		{begins: "A", silent: "A"},
		{ends: "B", silent: "A"},
		{begins: "B", silent: "A B"},
		{begins: "C", silent: "A B C"},
		{ends: "A", silent: "B C"},
		{ends: "A", silent: "B C"},
		{begins: "B", silent: "B C"},
		{ends: "C", silent: "B"},
		{ends: "B", silent: ""},
		{begins: "C", silent: "C"},
	} {
		if c.begins != "" {
			log.silence.begins(c.begins)
		}
		if c.ends != "" {
			log.silence.ends(c.ends)
		}
		var silent []string
		for _, stream := range []string{"A", "B", "C"} {
			if log.Silent(stream) {
				silent = append(silent, stream)
			}
		}
		if got := strings.Join(silent, " "); got != c.silent {
			t.Errorf("%d: %q is silent, want %q", n, got, c.silent)
		}
	}
}

// What a cluster's servers say in any order is read in the stream's.
func TestASpanIsInItsOrder(t *testing.T) {
	b := brokertest.Start(t)
	var asked []*nats.Msg
	sub, err := b.NC.Subscribe("$JS.API.DIRECT.GET.SAID", func(m *nats.Msg) {
		if asked = append(asked, m); len(asked) < 5 {
			return
		}
		for _, i := range []int{3, 0, 4, 2, 1} {
			said := &nats.Msg{Header: nats.Header{"Status": {"404"}}}
			if i != 2 {
				said.Header = nats.Header{
					jetstream.StreamHeader: {"SAID"}, jetstream.SubjectHeader: {"s"}, jetstream.SequenceHeader: {strconv.Itoa(i + 1)},
					jetstream.TimeStampHeaer: {"2026-11-24T12:00:00Z"},
				}
			}
			_ = asked[i].RespondMsg(said)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	span, err := New(b.JS, nil).Span(t.Context(), "SAID", 1, 5)
	var got []uint64
	for _, raw := range span {
		got = append(got, raw.Sequence)
	}
	if err != nil || !slices.Equal(got, []uint64{1, 2, 4, 5}) {
		t.Errorf("%v, %v", got, err)
	}
}

// A letter that the server says nothing of is not one that is gone: the others
// would be gone on with, and it passed over.
func TestASpanIsWholeOrFails(t *testing.T) {
	for silent := range 3 {
		synctest.Test(t, func(t *testing.T) {
			b := brokertest.Start(t)
			defer b.Stop()
			var asked atomic.Int32
			sub, err := b.NC.Subscribe("$JS.API.DIRECT.GET.SAID", func(m *nats.Msg) {
				if int(asked.Add(1)-1)%3 != silent {
					_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}}})
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Unsubscribe() }()
			log := New(b.JS, nil)
			began := time.Now()
			if found, err := log.Span(t.Context(), "SAID", 1, 3); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > readLasts {
				t.Errorf("without number %d: %v and %v after %v", silent, found, err, time.Since(began))
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if found, err := log.Span(gone, "SAID", 1, 3); err == nil {
				t.Errorf("without number %d, given up: %v", silent, found)
			}
			if left := len(log.reads.waiting); left != 0 {
				t.Errorf("without number %d: %d are still waited for", silent, left)
			}
		})
	}
}

// A span has no subscription of its own: the client makes room for half a million
// messages for each, which was a tenth of what a replayer did in a drain.
func TestSpansShareASubscription(t *testing.T) {
	b := brokertest.Start(t)
	log := New(b.JS, nil)
	least := uint64(1 << 62)
	for range 8 { // the least of several: others in this process make things, too
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := log.Span(t.Context(), "FETCH_DLQ", 1, 16); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least > 256<<10 {
		t.Errorf("a span of 16 took %d bytes at the least", least)
	}
	b.NC.Close()
	if _, err := log.Span(t.Context(), "FETCH_DLQ", 1, 16); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("on a connection that is closed: %v", err)
	}
}
