package record

import (
	"errors"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// everything is each way in which a log reads or writes.
func everything(t *testing.T, b *brokertest.Broker, log *Log, looks *Looks, stream string) map[string]func() error {
	t.Helper()
	ctx := t.Context()
	slot := Slot{Stream: stream, Subject: "s.a.fmp.b", Order: Letters}
	m := func() *nats.Msg {
		return &nats.Msg{Subject: slot.Subject, Header: nats.Header{}, Data: []byte("1")}
	}
	none := func(uint64) bool { return false }
	return map[string]func() error{
		"last":     func() error { _, err := log.Last(ctx, stream, slot.Subject); return err },
		"get":      func() error { _, err := log.Get(ctx, slot); return err },
		"next":     func() error { _, err := log.Next(ctx, stream, "s.>", 1); return err },
		"count":    func() error { _, err := log.Count(ctx, stream, "s.>", 1); return err },
		"page":     func() error { _, err := log.Page(ctx, stream, "s.>", 1, 3); return err },
		"span":     func() error { _, err := log.Span(ctx, stream, 1, 3); return err },
		"look":     func() error { _, err := looks.Read(ctx, slot.Subject); return err },
		"put":      func() error { _, err := log.Put(ctx, slot, m()); return err },
		"swap":     func() error { _, err := log.Swap(ctx, slot, 9, m()); return err },
		"append":   func() error { return log.Append(ctx, "", stream, m()) },
		"send":     func() error { return log.Send(m()) },
		"delete":   func() error { return log.Delete(ctx, "", stream, 1) },
		"put all":  func() error { return errors.Join(log.PutAll(ctx, []Entry{{slot, m()}, {slot, m()}})...) },
		"take out": func() error { return errors.Join(log.TakeOutAll(ctx, "", stream, "c", []uint64{1, 2}, none)...) },
	}
}

// Without a connection nothing is read and nothing written, and each way says so at
// once; that nothing is there, is said of none.
func TestWithoutAConnectionNothingIsDone(t *testing.T) {
	b := brokertest.Start(t)
	js, end := b.Through(t, &brokertest.Wire{})
	log := New(js, nil)
	looks, err := NewLooks(js, fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	end()
	began := time.Now()
	for name, do := range everything(t, b, log, looks, fetchworker.StreamResults) {
		if err := do(); err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if looks, err := NewLooks(js, fetchworker.StreamResults); err == nil {
		looks.Close()
		t.Error("it looks")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("that took %v", took)
	}
}

// A stored message that does not say where it lies or since when is an error for
// whoever reads it, and no message.
func TestAMessageWithoutItsPlaceIsNone(t *testing.T) {
	b := brokertest.Start(t)
	for name, header := range map[string]nats.Header{
		"no sequence": {jetstream.SequenceHeader: {"first"}, jetstream.TimeStampHeaer: {"2026-11-24T12:00:00Z"}},
		"no time":     {jetstream.SequenceHeader: {"1"}, jetstream.TimeStampHeaer: {"noon"}},
	} {
		header.Set(jetstream.StreamHeader, "SAID")
		header.Set(jetstream.SubjectHeader, "s.a.fmp.b")
		var subs []*nats.Subscription
		for _, subject := range []string{"$JS.API.DIRECT.GET.SAID", "$JS.API.DIRECT.GET.SAID.>"} {
			sub, err := b.NC.Subscribe(subject, func(m *nats.Msg) {
				_ = m.RespondMsg(&nats.Msg{Header: header})
				_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"204"}}})
			})
			if err != nil {
				t.Fatal(err)
			}
			subs = append(subs, sub)
		}
		looks, err := NewLooks(b.JS, "SAID")
		if err != nil {
			t.Fatal(err)
		}
		all := everything(t, b, New(b.JS, nil), looks, "SAID")
		for _, way := range []string{"last", "get", "next", "count", "page", "span"} {
			if err := all[way](); err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
				t.Errorf("%s, %s: %v", name, way, err)
			}
		}
		looks.Close()
		for _, sub := range subs {
			_ = sub.Unsubscribe()
		}
	}
}

// What comes in the moment in which a log's writes get another inbox, and whatever
// its name, is heard by nobody, and nobody panics.
func TestAWordOfAnotherInboxIsOfNobody(t *testing.T) {
	a := newAcks(nil)
	a.inbox = "_INBOX.new."
	w := &write{said: make(chan *nats.Msg, 1)}
	a.waiting["1"] = w
	for _, subject := range []string{"", "_INBOX", "_INBOX.new.2", "_INBOX.new."} {
		a.take(&nats.Msg{Subject: subject})
	}
	if len(w.said) != 0 {
		t.Error("it is taken for a word")
	}
	if a.take(&nats.Msg{Subject: "_INBOX.new.1"}); len(w.said) != 1 {
		t.Error("its own word is not heard")
	}
}

// No more of what wrote is kept than for some writes.
func TestWhatWroteIsKeptForSomeWrites(t *testing.T) {
	a := newAcks(nil)
	for range 2 * writesFree {
		a.end("", &write{said: make(chan *nats.Msg, 1), late: time.NewTimer(time.Hour)})
	}
	if len(a.free) != writesFree {
		t.Errorf("%d are kept", len(a.free))
	}
}

// What the stream's word is cut out of must be all of it.
func TestAWordThatIsCutOffIsNone(t *testing.T) {
	const word = `{"stream":"S","seq":17}`
	for n := range len(word) {
		if ack, err := ackOf([]byte(word[:n])); err == nil {
			t.Errorf("%s: %+v", word[:n], ack)
		}
	}
	if ack, err := ackOf([]byte(word)); err != nil || ack.Sequence != 17 {
		t.Errorf("%+v, %v", ack, err)
	}
}
