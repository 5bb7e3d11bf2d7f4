package fetch_test

import (
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

const aapl = `[{"symbol":"AAPL","price":191.31}]`

// anything answers every request like a provider that is well.
func (r *rig) well() { r.upstream.Fallback = respond(200, aapl) }

func TestARequestGetsTheProvidersBytesAndAllHeaders(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		live, err := r.b.NC.SubscribeSync("fetch.result.>")
		if err != nil {
			t.Fatal(err)
		}
		copies, err := r.b.NC.SubscribeSync("fetch.reply.alice.>")
		if err != nil {
			t.Fatal(err)
		}
		defer r.start(nil)()
		id := r.quote("alice", "q-1", "AAPL", `,"reply_to":"fetch.reply.alice.quotes"`)
		a := r.final(id, 5*time.Second)
		if a.Status != fetchworker.StatusOK || string(a.Body) != aapl || a.Source != fetchworker.SourceOrigin || a.Calls != 1 || a.Generation != 1 || a.HTTPStatus != 200 {
			t.Errorf("answer %+v", a)
		}
		m, err := next(live, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, header := range []string{
			"ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time", "Content-Type", "Fetch-Request-Id", "Fetch-Status",
			"Fetch-Final", "Fetch-Generation", "Fetch-Source", "Fetch-Http-Status", "Fetch-Calls", "Fetch-Failures", "Fetch-Fetched-At",
			"Fetch-Age-Seconds", "Fetch-Latency-Ms",
		} {
			if m.Header.Get(header) == "" {
				t.Errorf("no %s", header)
			}
		}
		if m, err := next(live, time.Second); err == nil {
			t.Errorf("seen live twice: %s", m.Subject)
		}
		c, err := next(copies, time.Second)
		if err != nil || string(c.Data) != aapl || c.Header.Get("Fetch-Final") != "true" {
			t.Errorf("reply copy: %v %v", c, err)
		}
		r.drained(fetchworker.StreamRequests, 0, time.Second)
	})
}

// Whatever is wrong with a request, its reply subject is told if that is its
// agent's own.
func TestAReplySubjectIsToldOfMistakesElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		copies, err := r.b.NC.SubscribeSync("fetch.reply.>")
		if err != nil {
			t.Fatal(err)
		}
		defer r.start(nil)()
		for id, subject := range map[string]string{"odd-operation": "fetch.request.fmp.batch.QUOTE.alice", "odd-field": "fetch.request.fmp.batch.quote.alice"} {
			r.final(r.ask(subject, id, `{"id":"`+id+`","odd":1,"reply_to":"fetch.reply.alice.x"}`), 5*time.Second)
			m, err := next(copies, time.Second)
			if err != nil || m.Header.Get(wire.HeaderRequestID) != id {
				t.Errorf("%s: %v %v", id, m, err)
			}
		}
	})
}

// Who asks under an id that is on its way is told what is known.
func TestASecondRequestUnderAnIDOnItsWayIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		copies, err := r.b.NC.SubscribeSync("fetch.reply.alice.second")
		if err != nil {
			t.Fatal(err)
		}
		defer r.whole(1, 1)()
		if err := fleet.Pause(t.Context(), r.b.KV, "fmp", time.Now().Add(time.Minute), "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		id := r.quote("alice", "same", "AAPL", `,"reply_to":"fetch.reply.alice.first"`)
		r.until(id, time.Second, func(fetchworker.Answer) bool { return true })
		r.quote("alice", "same", "AAPL", `,"reply_to":"fetch.reply.alice.second"`)
		m, err := next(copies, time.Second)
		if err != nil || m.Header.Get(wire.HeaderStatus) != string(fetchworker.StatusWaiting) {
			t.Errorf("%v %v", m, err)
		}
		if a := r.final(id, 2*time.Minute); a.Status != fetchworker.StatusOK {
			t.Errorf("%+v", a)
		}
	})
}

func TestBadRequestsAreRefusedAndLoseNothing(t *testing.T) {
	deep := strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000)
	cases := []struct {
		name, body string
		id         string // "" means the sequence id
		review     bool
	}{
		{"random bytes", strings.Repeat("\x00\xff\x13{", 15<<10), "", true},
		{"null", "null", "", true},
		{"deep array", deep, "", true},
		{"unknown field", `{"id":"u1","parms":{}}`, "u1", false},
		{"id with a space", `{"id":"a b"}`, "", false},
		{"ttl and deadline", `{"id":"u2","ttl":"1m","deadline":"2030-01-01T00:00:00Z"}`, "u2", false},
		{"foreign reply", `{"id":"u3","params":{"symbol":"AAPL"},"reply_to":"fetch.reply.bob.x"}`, "u3", false},
		{"inbox reply", `{"id":"u4","params":{"symbol":"AAPL"},"reply_to":"_INBOX.x"}`, "u4", false},
		{"twice the same field", `{"id":"u5","id":"u5"}`, "u5", false},
		{"no symbol", `{"id":"u6"}`, "u6", false},
		{"twice the same parameter", `{"id":"u7","params":{"symbol":"AAPL","symbol":"MSFT"}}`, "u7", false},
	}
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		defer r.start(nil)()
		reviews := 0
		for i, c := range cases {
			id := c.id
			if id == "" {
				id = wire.ResolveID("", "", uint64(i+1), time.Now())
			}
			identity := r.ask("fetch.request.fmp.batch.quote.alice", id, c.body)
			a := r.final(identity, 5*time.Second)
			if a.Status != fetchworker.StatusFailed || a.Problem.Code() != fetchworker.CodeInvalidRequest || a.Review != c.review {
				t.Errorf("%s: %+v %+v", c.name, a, a.Problem)
			}
			if c.review {
				reviews++
				if raw, ok := r.letter(fetchworker.LaneBatch, identity); !ok || string(raw.Data) != c.body {
					t.Errorf("%s: the raw bytes are not in a letter", c.name)
				}
			}
		}
		r.drained(fetchworker.StreamRequests, 0, time.Second)
		r.drained(wire.StreamDLQ, reviews, time.Second)
		if n := len(r.upstream.Calls()); n != 0 {
			t.Errorf("%d calls were spent on bad requests", n)
		}
	})
}

func TestAFailureBecomesALetterWithItsHistory(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(500, `{"Error Message":"boom"}`)
		defer r.start(nil)()
		id := r.quote("alice", "q-1", "AAPL", "")
		r.drained(wire.StreamDLQ, 1, 5*time.Second)
		raw, _ := r.letter(fetchworker.LaneInteractive, id)
		for header, want := range map[string]string{
			"Fetch-Error-Class": "transient", "Fetch-Calls": "1", "Fetch-Failures": "1", "Fetch-Generation": "1", "Fetch-Http-Status": "500",
		} {
			if got := raw.Header.Get(header); got != want {
				t.Errorf("%s: %q, want %q", header, got, want)
			}
		}
		notBefore, err := time.Parse(time.RFC3339, raw.Header.Get("Fetch-Not-Before"))
		failed, _ := time.Parse(time.RFC3339, raw.Header.Get("Fetch-Failed-At"))
		if wait := notBefore.Sub(failed); err != nil || wait < 800*time.Millisecond || wait > 1200*time.Millisecond {
			t.Errorf("first wait is %v", wait)
		}
		if !strings.Contains(raw.Header.Get("Fetch-History"), `"http_status":500`) {
			t.Errorf("history: %s", raw.Header.Get("Fetch-History"))
		}
	})
}

func TestAgentsHeadersAreNeverCarriedAlong(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(500, `{}`)
		defer r.start(nil)()
		m := newMsg("fetch.request.fmp.batch.quote.alice", `{"id":"h1","params":{"symbol":"AAPL"}}`)
		m.Header.Set("Nats-Msg-Id", "fmp.quote.alice.h1")
		m.Header.Set("Fetch-Generation", "9")
		m.Header.Set("X-Own", "1")
		m.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if _, err := r.b.JS.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		r.drained(wire.StreamDLQ, 1, 5*time.Second)
		raw, _ := r.letter(fetchworker.LaneBatch, fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "h1"})
		if raw.Header.Get("Nats-Msg-Id") != "" || raw.Header.Get("X-Own") != "" || raw.Header.Get("Fetch-Generation") != "1" {
			t.Errorf("headers %v", raw.Header)
		}
		if raw.Header.Get("traceparent") == "" {
			t.Error("the trace is broken")
		}
	})
}

func TestPermanentAnswersAreFinalAndOnlyRejectedGoesToReview(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		defer r.start(nil)()
		for _, c := range []struct {
			status int
			code   fetchworker.Code
			review bool
		}{{404, fetchworker.CodeNotFound, false}, {402, fetchworker.CodeNotEntitled, false}, {422, fetchworker.CodeRejected, true}} {
			r.upstream.Script(providertest.JSON(c.status, `{"Error Message":"no"}`))
			id := r.quote("alice", string(c.code), "A"+strings.ToUpper(string(c.code[:2])), "")
			a := r.final(id, 5*time.Second)
			if a.Problem == nil || a.Problem.Code() != c.code || a.Review != c.review {
				t.Errorf("%d: %+v %+v", c.status, a, a.Problem)
			}
			if _, ok := r.letter(fetchworker.LaneInteractive, id); ok != c.review {
				t.Errorf("%d: letter %v", c.status, ok)
			}
		}
	})
}

func TestADeadlineIsKeptWhileARequestWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.well()
		r.env["FMP_REQUESTS_PER_MINUTE"] = "1"
		defer r.start(nil)()
		r.final(r.quote("alice", "first", "AAPL", ""), 90*time.Second)
		asked := time.Now()
		id := r.quote("alice", "second", "MSFT", `,"ttl":"20s"`)
		a := r.final(id, time.Minute)
		if a.Problem == nil || a.Problem.Code() != fetchworker.CodeDeadlineExceeded {
			t.Fatalf("%+v %+v", a, a.Problem)
		}
		if took := time.Since(asked); took < 20*time.Second || took > 21*time.Second {
			t.Errorf("told after %v", took)
		}
	})
}
