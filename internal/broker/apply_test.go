package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// standard is a server with what an apply makes where nothing is decided.
func standard(t *testing.T) *brokertest.Broker {
	t.Helper()
	b := brokertest.Start(t)
	if err := broker.Apply(t.Context(), b.JS, broker.Options{ResultAge: broker.StandardResultAge}, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// stands is the configuration of a stream as it stands.
func stands(t *testing.T, b *brokertest.Broker, name string) jetstream.StreamConfig {
	t.Helper()
	s, err := b.JS.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

// change is what an operator does to a stream by hand.
func change(t *testing.T, b *brokertest.Broker, name string, by func(*jetstream.StreamConfig)) {
	t.Helper()
	c := stands(t, b, name)
	by(&c)
	if _, err := b.JS.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// applied is what Apply says of one stream.
func applied(t *testing.T, b *brokertest.Broker, o broker.Options, name string) (broker.Applied, error) {
	t.Helper()
	var found broker.Applied
	err := broker.Apply(t.Context(), b.JS, o, func(a broker.Applied) {
		if a.Stream == name {
			found = a
		}
	})
	return found, err
}

func publish(t *testing.T, b *brokertest.Broker, subject string) {
	t.Helper()
	if _, err := b.JS.Publish(t.Context(), subject, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestASecondApplyFindsAllAsWanted(t *testing.T) {
	b := standard(t)
	change(t, b, wire.StreamUsage, func(c *jetstream.StreamConfig) { c.MaxAge = broker.UsageAge }) // bubbles need another
	for _, o := range []broker.Options{{}, {Replicas: 1, ResultAge: 168 * time.Hour}} {
		if err := broker.Apply(t.Context(), b.JS, o, func(a broker.Applied) {
			if a.Did != "as wanted" || len(a.Kept)+len(a.Undone)+len(a.Losing) > 0 {
				t.Errorf("%+v", a)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatAnOperatorDecidedStays(t *testing.T) {
	b := standard(t)
	change(t, b, fetchworker.StreamResults, func(c *jetstream.StreamConfig) {
		c.MaxBytes, c.MaxAge, c.Metadata["owner"], c.Compression = 9<<30, 400*time.Hour, "ann", jetstream.S2Compression
	})
	change(t, b, fetchworker.StreamBodies, func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 })
	a, err := applied(t, b, broker.Options{MaxLife: 72 * time.Hour}, fetchworker.StreamResults)
	if err != nil || len(a.Kept) != 2 || a.Did != "as wanted" {
		t.Errorf("%+v %v", a, err)
	}
	for _, want := range []string{"9 GiB", "4 GiB", "400h", "168h"} {
		if !strings.Contains(fmt.Sprint(a.Kept), want) {
			t.Errorf("%s is not told: %v", want, a.Kept)
		}
	}
	if c := stands(t, b, fetchworker.StreamResults); c.MaxBytes != 9<<30 || c.MaxAge != 400*time.Hour || c.Metadata["owner"] != "ann" || c.Compression != jetstream.S2Compression {
		t.Errorf("%+v", c)
	}
	if c := stands(t, b, fetchworker.StreamBodies); c.MaxBytes != 1<<20 {
		t.Errorf("bodies hold %d bytes", c.MaxBytes)
	}
	// What is decided wider is done.
	a, err = applied(t, b, broker.Options{ResultAge: 500 * time.Hour, Bytes: map[string]int64{fetchworker.StreamResults: -1}}, fetchworker.StreamResults)
	if c := stands(t, b, fetchworker.StreamResults); err != nil || a.Did != "updated" || c.MaxAge != 500*time.Hour || c.MaxBytes != -1 {
		t.Errorf("%+v %v, %v, %d bytes", a, err, c.MaxAge, c.MaxBytes)
	}
}

// Streams of a version that kept parts no longer than answers.
func TestPartsOutliveAnswersAfterAnUpgrade(t *testing.T) {
	b := standard(t)
	change(t, b, fetchworker.StreamBodies, func(c *jetstream.StreamConfig) { c.MaxAge = broker.StandardResultAge })
	if err := broker.Apply(t.Context(), b.JS, broker.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	if age := stands(t, b, fetchworker.StreamBodies).MaxAge; age <= broker.StandardResultAge {
		t.Errorf("parts are kept %v", age)
	}
}

// An answer is there a day longer than its request may live, whoever has decided
// how long answers are kept.
func TestAnswersOutliveTheirRequests(t *testing.T) {
	b := standard(t)
	change(t, b, fetchworker.StreamResults, func(c *jetstream.StreamConfig) { c.MaxAge = 72 * time.Hour })
	for life, refused := range map[time.Duration]bool{48 * time.Hour: false, 48*time.Hour + time.Second: true, 71 * time.Hour: true} {
		_, err := applied(t, b, broker.Options{MaxLife: life}, fetchworker.StreamResults)
		if got := err != nil && strings.Contains(err.Error(), "max_age"); got != refused || err != nil && !refused {
			t.Errorf("a life of %v with answers of 72h: %v", life, err)
		}
	}
}

func TestWhatLosesSomethingNeedsAWord(t *testing.T) {
	b := standard(t)
	narrow := broker.Options{ResultAge: 96 * time.Hour, Bytes: map[string]int64{fetchworker.StreamResults: 1 << 20}, MaxLife: 72 * time.Hour}
	publish(t, b, "fetch.put.fmp.quote.alice.q1")
	a, err := applied(t, b, narrow, fetchworker.StreamResults)
	if c := stands(t, b, fetchworker.StreamResults); err != nil || len(a.Losing) != 2 || c.MaxAge != 168*time.Hour || c.MaxBytes != 4<<30 {
		t.Errorf("%+v %v, %v, %d bytes", a, err, c.MaxAge, c.MaxBytes)
	}
	// An empty stream loses nothing.
	if c := stands(t, b, fetchworker.StreamBodies); c.MaxAge != 96*time.Hour+2*wire.BodyReuse {
		t.Errorf("bodies are kept %v", c.MaxAge)
	}
	narrow.AcceptLoss = true
	a, err = applied(t, b, narrow, fetchworker.StreamResults)
	if c := stands(t, b, fetchworker.StreamResults); err != nil || a.Did != "updated" || c.MaxAge != 96*time.Hour || c.MaxBytes != 1<<20 {
		t.Errorf("%+v %v, %v, %d bytes", a, err, c.MaxAge, c.MaxBytes)
	}
}

// The server would delete what is beyond a smaller limit without a word.
func TestALimitForEachSubjectDeletesNothing(t *testing.T) {
	b := standard(t)
	change(t, b, wire.StreamReview, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 })
	for range 3 {
		publish(t, b, "fetch.review.fmp.quote.alice.q1")
	}
	publish(t, b, "fetch.review.fmp.quote.alice.q2")
	err := broker.Apply(t.Context(), b.JS, broker.Options{}, nil)
	if err == nil || !strings.Contains(err.Error(), wire.StreamReview) || !strings.Contains(err.Error(), "from 5 to 1 would delete 2 messages") {
		t.Errorf("%v", err)
	}
	s, err := b.JS.Stream(t.Context(), wire.StreamReview)
	if err != nil || s.CachedInfo().State.Msgs != 4 {
		t.Fatalf("%v", err)
	}
	if err := broker.Apply(t.Context(), b.JS, broker.Options{AcceptLoss: true}, nil); err != nil {
		t.Fatal(err)
	}
	if s, err = b.JS.Stream(t.Context(), wire.StreamReview); err != nil || s.CachedInfo().State.Msgs != 2 || s.CachedInfo().Config.MaxMsgsPerSubject != 1 {
		t.Errorf("%v", err)
	}
}

func TestAnOlderVersionChangesNothingBack(t *testing.T) {
	b := standard(t)
	change(t, b, wire.StreamReview, func(c *jetstream.StreamConfig) {
		c.Metadata["fetchworker.topology"], c.Description, c.MaxMsgSize = "99", "of the next version", 12345
	})
	a, err := applied(t, b, broker.Options{}, wire.StreamReview)
	if err != nil || a.Did != "left as a newer version made it" || len(a.Undone) != 2 {
		t.Errorf("%+v %v", a, err)
	}
	if c := stands(t, b, wire.StreamReview); c.Description != "of the next version" || c.MaxMsgSize != 12345 {
		t.Errorf("%+v", c)
	}
	// What guarantees stand on is missed all the same.
	change(t, b, wire.StreamReview, func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld })
	if err := broker.Apply(t.Context(), b.JS, broker.Options{}, nil); err == nil || !strings.Contains(err.Error(), "discard") {
		t.Errorf("%v", err)
	}
}

func TestWhatCannotBeAppliedIsToldWithBothValues(t *testing.T) {
	b := standard(t)
	memory := stands(t, b, wire.StreamDLQ)
	memory.Storage = jetstream.MemoryStorage
	if err := b.JS.DeleteStream(t.Context(), memory.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.CreateStream(t.Context(), memory); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "fetch.dlq.a.batch.b.c.d")
	err := broker.Apply(t.Context(), b.JS, broker.Options{}, nil)
	if err == nil {
		t.Fatal("a change of storage was applied")
	}
	for _, part := range []string{"FETCH_DLQ", "storage", `"file"`, `"memory"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not name %s: %v", part, err)
		}
	}
	s, err := b.JS.Stream(t.Context(), wire.StreamDLQ)
	if err != nil || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("the stream's message is gone: %v", err)
	}
	change(t, b, fetchworker.StreamResults, func(c *jetstream.StreamConfig) { c.MaxAge = 48 * time.Hour })
	err = broker.Apply(t.Context(), b.JS, broker.Options{MaxLife: 72 * time.Hour}, nil)
	if err == nil || !strings.Contains(err.Error(), "FETCH_MAX_LIFE") {
		t.Errorf("an answer goes before its request: %v", err)
	}
}

// A small server says before anything is made what is missing.
func TestTooLittleRoomIsToldBeforeAStreamIsMade(t *testing.T) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 3 << 30, NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	err = broker.Apply(t.Context(), js, broker.Options{}, nil)
	if !errors.Is(err, broker.ErrNoRoom) || !strings.Contains(err.Error(), "reserve 11 GiB") || !strings.Contains(err.Error(), "it has 2.99") {
		t.Errorf("%v", err)
	}
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		t.Errorf("%s was made", name)
	}
	small := map[string]int64{}
	for _, name := range broker.StreamNames() {
		small[name] = 100 << 20
	}
	delete(small, wire.StreamBudget)
	if err := broker.Apply(t.Context(), js, broker.Options{Bytes: small}, nil); err != nil {
		t.Errorf("with smaller ones: %v", err)
	}
}

// A cluster that has just come up leaves what it is asked without a word: what
// asks again soon is not held up by that.
func TestALookThatNobodyAnswersIsRepeatedSoon(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		w := &brokertest.Wire{}
		js, end := b.Through(t, w)
		defer end()
		w.Break("STREAM.INFO", brokertest.RequestLost, 2, 0)
		began := time.Now()
		if err := broker.Apply(t.Context(), js, broker.Options{}, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 3*time.Second || w.Met() != 2 {
			t.Errorf("took %v, %d requests were lost", took, w.Met())
		}
	})
}
