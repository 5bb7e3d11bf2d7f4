package dlq_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cancel"
	"fetchworker/internal/dlq"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Each thing that is done with a letter is counted once, under its name, and is a
// span of its request's trace that comes after the attempt before. A step that
// fails is one that failed, in words that can be exported.
func TestWhatIsDoneWithALetterIsTold(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		view, err := cancel.Watch(f.Ctx, f.JS, f.KV)
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		desk := cancel.NewDesk(view, record.New(f.JS, nil), func(string) bool { return true }, time.Hour, zap.NewNop())
		if err := fleet.Pause(f.Ctx, f.KV, "paused", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		if err := fleet.NoteServed(f.Ctx, f.JS, "gone"); err != nil {
			t.Fatal(err)
		}
		if err := fleet.Retire(f.Ctx, f.KV, "gone", "ann", "contract ended"); err != nil {
			t.Fatal(err)
		}
		later := func(l *dlq.Letter) { l.NotBefore = l.FailedAt.Add(time.Hour) }
		stories := []struct {
			action, span string
			edit         func(l *dlq.Letter)
		}{
			{"released", "replay FETCH_REPLAY", func(l *dlq.Letter) { l.NotBefore = l.FailedAt }},
			{"deadline_exceeded", "expire FETCH_RESULTS", func(l *dlq.Letter) { later(l); l.Deadline = l.FailedAt }},
			{"provider_not_configured", "refuse FETCH_RESULTS", func(l *dlq.Letter) { later(l); l.Provider = "gone" }},
			{"cancelled", "cancel FETCH_RESULTS", func(l *dlq.Letter) { later(l); l.Agent, l.RequestedAt = "bob", l.FailedAt.Add(-time.Minute) }},
			{"review", "review FETCH_REVIEW", func(l *dlq.Letter) { l.Failures = 4 }},
			{"told_to_wait", "wait FETCH_RESULTS", func(l *dlq.Letter) { l.Provider = "paused" }},
			{"already_answered", "review FETCH_REVIEW", func(l *dlq.Letter) { l.Failures = 4; finished(f, *l) }},
		}
		var letters []dlq.Letter
		before := map[string]oteltrace.SpanContext{} // the attempt, by request
		for i, s := range stories {
			l := dlqtest.FailedOnce(i)
			s.edit(&l)
			_, span := trace.NewTracerProvider().Tracer("test").Start(context.Background(), "fetch") //nolint:usetesting // nothing of the test's
			l.Trace(span.SpanContext())
			before[l.ID] = span.SpanContext()
			span.End()
			letters = append(letters, l)
		}
		if _, err := desk.Take(f.Ctx, "fetch.cancel.fmp.bob", []byte(`{"all":true}`)); err != nil {
			t.Fatal(err)
		}
		desk.Close()
		time.Sleep(2 * time.Second)
		spans := tracetest.NewSpanRecorder()
		all := prometheus.NewRegistry()
		var once sync.Once
		stop := replayerWith(f, nil, func(point string, persisted bool) (err error) {
			if point == "event" && !persisted {
				once.Do(func() { err = errors.New("the server says \xff") })
			}
			return err
		}, func(c *dlq.Config) {
			c.Registerer, c.Cancels = all, view
			c.Tracer = trace.NewTracerProvider(trace.WithSpanProcessor(spans)).Tracer("test")
		})
		time.Sleep(time.Second) // it has looked for what is cancelled already
		f.Put(letters...)
		f.Eventually(20*time.Second, "all is done", func() bool { return f.Count(wire.StreamDLQ, ">") == 1 })
		time.Sleep(5 * time.Second) // the one that waits
		stop()

		counted := counts(t, all, "replayer_letters_total", "action")
		for _, s := range stories {
			if counted[s.action] != 1 {
				t.Errorf("%s is counted %v times", s.action, counted[s.action])
			}
		}
		seen := map[string]int{}
		for _, span := range spans.Ended() {
			attrs := map[string]string{}
			for _, a := range span.Attributes() {
				attrs[string(a.Key)] = a.Value.String()
			}
			id := attrs["fetch.request_id"]
			i := slices.IndexFunc(letters, func(l dlq.Letter) bool { return l.ID == id })
			if i < 0 {
				t.Fatalf("a span of nobody's: %v", attrs)
			}
			seen[id]++
			attempt, links := before[id], span.Links()
			name, stream, _ := strings.Cut(stories[i].span, " ")
			if span.Name() != stories[i].span || span.SpanKind() != oteltrace.SpanKindProducer ||
				attrs["messaging.operation.name"] != name || attrs["messaging.destination.name"] != stream || attrs["fetch.error_class"] != string(letters[i].Class) {
				t.Errorf("%s: %s of %v, %v", stories[i].action, span.Name(), span.SpanKind(), attrs)
			}
			if len(links) != 1 || links[0].SpanContext.SpanID() != attempt.SpanID() || links[0].SpanContext.TraceFlags() != attempt.TraceFlags() || span.SpanContext().TraceID() != attempt.TraceID() {
				t.Errorf("%s: it is of %s after %+v, and the attempt was %s", stories[i].action, span.SpanContext().TraceID(), links, attempt.SpanID())
			}
			wants := codes.Unset
			if stories[i].action == "review" && seen[id] == 1 {
				wants = codes.Error
			}
			if status := span.Status(); status.Code != wants || !utf8.ValidString(status.Description) || wants == codes.Error && !strings.Contains(status.Description, "the server says") {
				t.Errorf("%s: it came to %+v", stories[i].action, status)
			}
		}
		for i, l := range letters {
			want := 1
			if stories[i].action == "review" {
				want = 2
			}
			if seen[l.ID] < want { // one whose ack is on its way may be met once more
				t.Errorf("%s has %d spans, want %d", stories[i].action, seen[l.ID], want)
			}
		}
		f.Accepted = nil
	})
}

// counts are a counter's values by one of its labels.
func counts(t *testing.T, of prometheus.Gatherer, name, label string) map[string]float64 {
	t.Helper()
	families, err := of.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label {
					counted[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return counted
}

// What a drain releases is counted like what is released in its turn.
func TestWhatADrainReleasesIsCounted(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		if err := fleet.Pause(f.Ctx, f.KV, "fmp", time.Now().Add(time.Hour), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		all := prometheus.NewRegistry()
		w := &brokertest.Wire{}
		js, end := f.Through(t, w)
		defer end()
		stop := replayerWith(f, js, nil, func(c *dlq.Config) { c.Registerer = all })
		defer stop()
		f.Put(dlqtest.Fresh(1, wire.ClassPaused), dlqtest.Fresh(2, wire.ClassPaused))
		time.Sleep(5 * time.Second)
		w.Break("CONSUMER.MSG.NEXT", brokertest.RequestLost, 1_000_000, 0)
		time.Sleep(6 * time.Second)
		resume(f)
		released(f, 5*time.Second, 2)
		if n := counts(t, all, "replayer_letters_total", "action")["released"]; n != 2 {
			t.Errorf("two were released, and %v are counted", n)
		}
	})
}

// A letter is read as it was written, wherever it lies, whatever it carries.
func TestALetterIsReadAsItWasWritten(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
	l := dlq.Letter{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, Lane: fetchworker.LaneBatch,
		Body: []byte(`{"params":{}}`), Generation: 2, Calls: 3, Failures: 4, Allowed: 5, MaxLife: 6 * time.Hour,
		Class: wire.ClassTransient, Code: fetchworker.CodeRejected, Error: "HTTP 503", HTTPStatus: 503,
		RequestedAt: at, Deadline: at.Add(1), FailedAt: at.Add(2), FirstFailedAt: at.Add(3), NotBefore: at.Add(4),
		Worker: "w-1", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Tracestate: "vendor=1",
		History: []dlq.Attempt{{At: at, Class: wire.ClassQuota, HTTPStatus: 429, LatencyMS: 7, Error: "slow down", Conditional: true}},
	}
	for _, whole := range []reflect.Value{reflect.ValueOf(l), reflect.ValueOf(l.History[0])} {
		for field := range whole.NumField() {
			if of := whole.Type().Field(field); of.IsExported() && whole.Field(field).IsZero() {
				t.Fatalf("%s is not set", of.Name)
			}
		}
	}
	for _, m := range []struct {
		what string
		read func() (dlq.Letter, error)
	}{
		{"dead", func() (dlq.Letter, error) { m := l.DeadLetter(); return dlq.Decode(m.Subject, m.Header, m.Data) }},
		{"replayed", func() (dlq.Letter, error) { m := l.Replayed(); return dlq.Decode(m.Subject, m.Header, m.Data) }},
		{"in review", func() (dlq.Letter, error) { m := l.ReviewItem(); return dlq.Decode(m.Subject, m.Header, m.Data) }},
	} {
		if read, err := m.read(); err != nil || !reflect.DeepEqual(read, l) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", m.what, err, read, l)
		}
	}
	// And none of what it does not carry stands there.
	bare := dlq.Letter{Identity: l.Identity, Lane: l.Lane, Body: l.Body, Generation: 1, Class: wire.ClassTransient}
	m := bare.DeadLetter()
	want := []string{wire.HeaderRequestID, wire.HeaderGeneration, wire.HeaderCalls, wire.HeaderFailures, wire.HeaderErrorClass}
	if got := slices.Sorted(maps.Keys(m.Header)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("a letter of which nothing is known says %v", got)
	}
}

// Of what lies under a subject that is no letter's the body is kept, for a person.
func TestOfWhatIsNoLettersTheBodyIsKept(t *testing.T) {
	for _, subject := range []string{"", "fetch.dlq", "fetch.dlq.fmp.batch.quote.alice.ü", "other.a.b.c.d.e.f"} {
		l := dlq.Read(subject, dlqtest.FailedOnce(1).DeadLetter().Header, []byte("its own"))
		if string(l.Body) != "its own" || l.Class != wire.ClassPermanent || l.Generation != 1 || l.Error == "" {
			t.Errorf("%q: %+v", subject, l)
		}
	}
}

// A text is one line, whatever it is made of: a header must be.
func TestATextIsOneLine(t *testing.T) {
	for r := range rune(0x100) {
		text := dlq.OneLine("a" + string(r) + "b")
		if (r < ' ' || r == 0x7f) != (text == "a b") && r != ' ' || r >= ' ' && r != 0x7f && text != "a"+string(r)+"b" {
			t.Errorf("%q: %q", r, text)
		}
	}
}

// How long a request lives is what its worker promised, be it longer or shorter
// than this replayer says; who promised nothing is of this replayer's mind. It
// counts from when it was requested, or else stored.
func TestALifeIsAsLongAsItWasPromised(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	stored := at.Add(time.Minute)
	for name, c := range map[string]struct {
		promised  time.Duration
		requested time.Time
		want      time.Time
	}{
		"nothing":                       {0, at, at.Add(time.Hour)},
		"less":                          {time.Minute, at, at.Add(time.Minute)},
		"more":                          {72 * time.Hour, at, at.Add(72 * time.Hour)},
		"nothing, nobody knows when":    {0, time.Time{}, stored.Add(time.Hour)},
		"less, nobody knows since when": {time.Minute, time.Time{}, stored.Add(time.Minute)},
	} {
		l := dlq.Letter{MaxLife: c.promised, RequestedAt: c.requested}
		if ends := l.EndOfLife(stored, time.Hour); !ends.Equal(c.want) {
			t.Errorf("%s: it ends at %v, want %v", name, ends, c.want)
		}
	}
}

// Failed tells of an error in words that can be exported, and otherwise as it is.
func TestAnErrorInASpanIsText(t *testing.T) {
	for said, want := range map[string]string{"HTTP 503": "HTTP 503", " a\xff\xfeb ": " a\uFFFDb ", "é": "é"} {
		spans := tracetest.NewSpanRecorder()
		_, span := trace.NewTracerProvider(trace.WithSpanProcessor(spans)).Tracer("test").Start(t.Context(), "x", oteltrace.WithAttributes(attribute.Bool("a", true)))
		dlq.Failed(span, errors.New(said))
		span.End()
		if got := spans.Ended()[0].Status(); got.Code != codes.Error || got.Description != want {
			t.Errorf("%q: %+v", said, got)
		}
	}
}

// What a worker has just told an agent is not told it once more for a few seconds'
// difference: a circuit's time moves with each probe, and a crowd's answers would all
// be written again. What differs by more, or says something else, is told.
func TestWhatAnAgentHasJustBeenToldIsNotToldAgain(t *testing.T) {
	dlqtest.Bubble(t, func(f *dlqtest.Fleet) {
		f.Serve("fmp")
		until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
		f.Circuit("fmp", circuit.Record{Circuit: openFor("", until)})
		stories := []struct {
			name   string
			told   time.Time
			reason fetchworker.Reason
			life   int
			again  bool
		}{
			{"the same", until, fetchworker.ReasonCircuitOpen, 1, false},
			{"a little sooner", until.Add(-5 * time.Second), fetchworker.ReasonCircuitOpen, 1, false},
			{"a little later", until.Add(5 * time.Second), fetchworker.ReasonCircuitOpen, 1, false},
			{"sooner", until.Add(-6 * time.Second), fetchworker.ReasonCircuitOpen, 1, true},
			{"later", until.Add(6 * time.Second), fetchworker.ReasonCircuitOpen, 1, true},
			{"no time", time.Time{}, fetchworker.ReasonCircuitOpen, 1, true},
			{"another reason", until, fetchworker.ReasonPaused, 1, true},
			{"in an earlier life", until, fetchworker.ReasonCircuitOpen, 2, true},
		}
		store := answer.New(f.Log)
		before := map[string]uint64{}
		sequence := func(l dlq.Letter) uint64 {
			seen, err := f.Log.Get(f.Ctx, answer.Slot(l.Identity))
			if err != nil {
				t.Fatal(err)
			}
			return seen.Sequence
		}
		var letters []dlq.Letter
		for i, s := range stories {
			l := dlqtest.Fresh(i, wire.ClassCircuitOpen)
			if _, _, err := store.Put(f.Ctx, l.Waiting(s.reason, "", s.told), ""); err != nil {
				t.Fatal(err)
			}
			before[s.name] = sequence(l)
			l.Generation = s.life
			letters = append(letters, l)
		}
		f.Put(letters...)
		f.Replayer(nil)
		time.Sleep(time.Minute)
		for i, s := range stories {
			a, _ := f.Answer(letters[i].Identity)
			if again := sequence(letters[i]) != before[s.name]; again != s.again {
				t.Errorf("%s: told again %t", s.name, again)
			}
			if s.again && !a.RetryAt.Equal(until) {
				t.Errorf("%s: told %v, not %v", s.name, a.RetryAt, until)
			}
		}
		f.Accepted = nil
	})
}
