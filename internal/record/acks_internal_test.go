package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
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
	next, token, _ := begin()
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
