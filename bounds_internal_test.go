package fetchworker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a claim may promise: a body of its agent's, and no more than its parts can
// hold.
func TestWhatAClaimMayPromise(t *testing.T) {
	const ours = "fetch.body.alice.digest"
	for name, c := range map[string]struct {
		claim Claim
		ok    bool
	}{
		"one part":            {Claim{Prefix: ours, Parts: 1, Bytes: 1}, true},
		"as much as fits":     {Claim{Prefix: ours, Parts: 2, Bytes: 2 * MaxInlineBody}, true},
		"a byte more":         {Claim{Prefix: ours, Parts: 2, Bytes: 2*MaxInlineBody + 1}, false},
		"nothing":             {Claim{Prefix: ours, Parts: 1, Bytes: 0}, false},
		"no parts":            {Claim{Prefix: ours, Parts: 0, Bytes: 1}, false},
		"less than no parts":  {Claim{Prefix: ours, Parts: -1, Bytes: 1}, false},
		"the most parts":      {Claim{Prefix: ours, Parts: mostParts, Bytes: 1}, true},
		"a part more":         {Claim{Prefix: ours, Parts: mostParts + 1, Bytes: 1}, false},
		"another agent's":     {Claim{Prefix: "fetch.body.bob.digest", Parts: 1, Bytes: 1}, false},
		"an agent's of alike": {Claim{Prefix: "fetch.body.alice2.digest", Parts: 1, Bytes: 1}, false},
		"no subject":          {Claim{Prefix: ours + ".>", Parts: 1, Bytes: 1}, false},
		"an answer's subject": {Claim{Prefix: "fetch.result.alice.digest", Parts: 1, Bytes: 1}, false},
	} {
		if err := c.claim.Check("alice"); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrBodyCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What ends a submit, and what is tried again.
func TestWhatIsARefusal(t *testing.T) {
	api := func(code int) error { return fmt.Errorf("said: %w", &jetstream.APIError{Code: code}) }
	for err, want := range map[error]bool{
		api(400): true, api(404): true, api(499): true, api(500): false, api(503): false,
		fmt.Errorf("%w: x", ErrQueueFull): true, fmt.Errorf("%w: x", ErrNotPermitted): true, fmt.Errorf("%w: x", ErrClosed): true,
		fmt.Errorf("x: %w", nats.ErrMaxPayload): true, nats.ErrNoResponders: false, context.DeadlineExceeded: false, nats.ErrTimeout: false,
	} {
		if got := refusal(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
	said := func(code jetstream.ErrorCode) error {
		return fmt.Errorf("said: %w", &jetstream.APIError{Code: 503, ErrorCode: code})
	}
	for err, want := range map[error]bool{
		said(10077): true, said(10047): true, said(10076): false, said(10158): false, said(0): false,
		fmt.Errorf("x: %w", nats.ErrTimeout): false,
	} {
		if got := isFull(err); got != want {
			t.Errorf("%v: full %t", err, got)
		}
	}
	ended, end := context.WithCancelCause(t.Context())
	end(ErrNotPermitted)
	if err := because(ended, nats.ErrTimeout); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("what ended it was %v", err)
	}
	if err := because(t.Context(), nats.ErrConnectionClosed); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed connection is %v", err)
	}
	if err := because(t.Context(), nats.ErrTimeout); errors.Is(err, ErrClosed) || !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a time-out is %v", err)
	}
}

// A request leaves room for its headers: what is larger is refused before it is
// published.
func TestARequestLeavesRoomForItsHeaders(t *testing.T) {
	c := &Client{agent: "alice"}
	of := func(n int) (int, error) {
		r := Request{Provider: "fmp", Operation: "quote", ID: "q", Params: json.RawMessage(`{"a":"` + strings.Repeat("x", n) + `"}`)}
		m, err := c.encode(&r)
		if err != nil {
			return 0, err
		}
		return len(m.Data), nil
	}
	small, err := of(0)
	if err != nil {
		t.Fatal(err)
	}
	most := MaxRequestBytes - headroom - small
	if n, err := of(most); err != nil || n != MaxRequestBytes-headroom {
		t.Errorf("the largest: %d bytes, %v", n, err)
	}
	var wrong *RequestError
	if _, err := of(most + 1); !errors.As(err, &wrong) || wrong.Field != "params" {
		t.Errorf("a byte more: %v", err)
	}
}

// Looks at a request become more seldom, and never rare.
func TestHowOftenARequestIsLookedUp(t *testing.T) {
	before := time.Duration(0)
	for looks := range 2000 {
		wait := lookAfter(looks)
		if wait <= 0 || wait > longestLook || wait < before && looks > 0 {
			t.Fatalf("look %d after %v, the one before after %v", looks, wait, before)
		}
		before = wait
	}
}

// Room for bodies is given to as many as there is room for, the largest have all of
// it, and what is given back is there for the next.
func TestRoomForBodies(t *testing.T) {
	synctest.Test(t, roomForBodies)
}

func roomForBodies(t *testing.T) {
	room := newBodyRoom(10)
	take := func(bytes int64) (func(), bool) {
		soon, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		leave, err := room.take(soon, &Answer{Claim: &Claim{Bytes: bytes}})
		return leave, err == nil
	}
	var held []func()
	for _, c := range []struct {
		bytes int64
		fits  bool
	}{{6, true}, {5, false}, {4, true}, {1, false}, {0, true}, {-1, true}} {
		leave, fits := take(c.bytes)
		if fits != c.fits {
			t.Errorf("%d bytes fit: %t", c.bytes, fits)
		}
		if fits {
			held = append(held, leave)
		}
	}
	for _, leave := range held {
		leave()
	}
	leave, fits := take(1 << 40)
	if !fits {
		t.Fatal("one that is larger than all room is never read")
	}
	if _, fits := take(1); fits {
		t.Error("beside the largest is room for another")
	}
	leave()
	if leave, err := room.take(t.Context(), &Answer{}); err != nil {
		t.Error(err)
	} else {
		leave()
	}
}

// Where copies may go: to a literal subject of the agent's own, of a length that a
// server takes.
func TestWhereCopiesMayGo(t *testing.T) {
	const own = "fetch.reply.alice."
	for subject, want := range map[string]bool{
		own + "x": true, own + "x.y": true, own + strings.Repeat("x", 256-len(own)): true, own + strings.Repeat("x", 257-len(own)): false,
		own: false, own + ".x": false, own + "x.": false, own + "*": false, own + "x.>": false, own + "a b": false, own + "a\x7f": false,
		"fetch.reply.alice": false, "fetch.reply.alice2.x": false, "fetch.reply.bob.x": false, "": false, "x": false,
	} {
		r := Request{Provider: "fmp", Operation: "quote", Agent: "alice", Lane: LaneBatch, ReplyTo: subject}
		if got := r.Reply() == subject && subject != ""; got != want {
			t.Errorf("%q: %t", subject, got)
		}
		if err := r.Check(); (err == nil) != (want || subject == "") {
			t.Errorf("%q: %v", subject, err)
		}
	}
}

// When a request is over: at its deadline, or so long after it was stored, of which
// only one may be said.
func TestWhenARequestIsOver(t *testing.T) {
	stored := time.Date(2026, 2, 13, 21, 0, 0, 0, time.UTC)
	for body, want := range map[string]string{
		`{}`: "0001-01-01T00:00:00Z", `{"ttl":"1m"}`: "2026-02-13T21:01:00Z", `{"deadline":"2026-02-14T00:00:00Z"}`: "2026-02-14T00:00:00Z",
		`{"ttl":"1m","deadline":"2026-02-14T00:00:00Z"}`: "ttl", `{"deadline":"2026-02-14T00:00:00Z","ttl":"1m"}`: "ttl",
		`{"ttl":"0s"}`: "ttl", `{"ttl":"-1m"}`: "ttl", `{"ttl":60}`: "ttl", `{"deadline":"tomorrow"}`: "deadline", `{"deadline":""}`: "deadline", `{"ttl":null,"deadline":null}`: "0001-01-01T00:00:00Z",
	} {
		r, err := DecodeRequest([]byte(body))
		var wrong *RequestError
		got := r.Expires(stored).Format(time.RFC3339)
		if errors.As(err, &wrong) {
			got = wrong.Field
		}
		if got != want {
			t.Errorf("%s: %s, %v", body, got, err)
		}
	}
}

// A program can ask an error that says that nothing has come yet whatever it is made of.
func TestWhatAPendingErrorIsMadeOf(t *testing.T) {
	p := Waiting(Identity{}, ReasonPaused, "", time.Time{})
	err := fmt.Errorf("x: %w", &PendingError{Cause: context.DeadlineExceeded, Trouble: fmt.Errorf("y: %w", ErrQueueFull), Last: &Answer{Problem: &p}})
	var why *Problem
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrQueueFull) || !errors.As(err, &why) || why.Reason() != ReasonPaused {
		t.Errorf("%v", err)
	}
	if err := error(&PendingError{Cause: context.Canceled}); errors.Is(err, ErrQueueFull) || errors.As(err, &why) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// The sum of a large body is known whichever version of the service has stored it.
func TestALargeBodyOfAnEarlierVersionHasItsSum(t *testing.T) {
	for _, name := range []string{"Fetch-Sha256", "Fetch-Body-Sha256"} {
		h := nats.Header{"Fetch-Status": {"ok"}, "Fetch-Final": {"true"}, "Fetch-Body-Prefix": {"fetch.body.alice.x"}, "Fetch-Body-Parts": {"2"}, "Fetch-Body-Bytes": {"600000"}, name: {"abc"}}
		a, err := DecodeAnswer("fetch.result.fmp.quote.alice.q-1", h, nil)
		if err != nil || a.Claim == nil || *a.Claim != (Claim{"fetch.body.alice.x", 2, 600000, "abc"}) || a.SHA256 != "abc" {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// Whichever way a body is read, nothing is asked for that is none of its agent's.
func TestNoPartIsAskedForThatIsNobodys(t *testing.T) {
	c := &Client{agent: "alice", bodies: newBodyRoom(1)} // it has no connection: what is asked for all the same is a panic
	a := Answer{Identity: Identity{Agent: "alice"}, Claim: &Claim{Prefix: "fetch.body.bob.x", Parts: 1, Bytes: 1}}
	if _, err := c.Part(t.Context(), a, 1); !errors.Is(err, ErrBodyCorrupt) {
		t.Errorf("Part: %v", err)
	}
	for _, err := range c.Parts(t.Context(), a) {
		if !errors.Is(err, ErrBodyCorrupt) {
			t.Errorf("Parts: %v", err)
		}
	}
	if err := c.resolve(t.Context(), &a); !errors.Is(err, ErrBodyCorrupt) {
		t.Errorf("a whole one: %v", err)
	}
}

// Who follows reads the store again when it would have to remember too much.
func TestWhoFollowsReadsAgainBeforeItRemembersTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, more := range []int{0, 1} {
			f := &follower{arrivals: newArrivals[Answer](), seen: map[uint64]struct{}{}}
			for i := range 16*answersHeld + more {
				f.seen[uint64(i+1)] = struct{}{}
			}
			soon, end := context.WithTimeout(t.Context(), time.Second)
			if again := f.live(soon, nil, nil, nil); again != (more > 0) {
				t.Errorf("with %d it reads again: %t", len(f.seen), again)
			}
			end()
		}
	})
}

// Whatever an answer says is there when it is read again.
func TestWhatIsEncodedIsRead(t *testing.T) {
	at := time.Date(2026, 2, 13, 21, 0, 0, 5, time.UTC)
	a := Answer{
		Identity: Identity{"fmp", "quote", "alice", "q-1"}, Status: StatusStale, Review: true, Generation: 3, Source: SourceCache, HTTPStatus: 203, Calls: 4, Failures: 2,
		FetchedAt: at, Age: 90 * time.Second, Latency: 12 * time.Millisecond, Redacted: true, Next: json.RawMessage(`{"page":2}`), NextLoop: true, Time: at.Add(time.Hour),
		Digest: "0123456789abcdef", Reason: ReasonQuota, RetryAt: at.Add(time.Minute), ContentType: "text/csv", Body: []byte("a,b"), SHA256: sumOf([]byte("a,b")),
	}
	m := a.Encode()
	if got, err := DecodeAnswer(ResultSubject(a.Identity), m.Header, m.Data); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, %v, not %+v", got, err, a)
	}
}

// Parameters of a command line: each is given once, by name and as a text, or as JSON.
func TestParametersOfACommandLine(t *testing.T) {
	for _, c := range []struct {
		pairs []string
		want  string // empty: refused
	}{
		{nil, `{}`},
		{[]string{"a=1", "b="}, `{"a":"1","b":""}`},
		{[]string{"a=x=y"}, `{"a":"x=y"}`},
		{[]string{`a={"b":1}`, "c=[1]"}, `{"a":{"b":1},"c":[1]}`},
		{[]string{"a={b"}, `{"a":"{b"}`},
		{[]string{"a"}, ""},
		{[]string{"=1"}, ""},
		{[]string{""}, ""},
		{[]string{"a=1", "a=2"}, ""},
		{[]string{"a=1", "a=1"}, ""},
	} {
		var wrong *RequestError
		if got, err := ParamsFrom(c.pairs); string(got) != c.want || (c.want == "") != (errors.As(err, &wrong) && wrong.Field == "params") {
			t.Errorf("%q: %s, %v", c.pairs, got, err)
		}
	}
}

// A waiting answer says once what is waited for and until when.
func TestAWaitingAnswerSaysItOnce(t *testing.T) {
	id, at := Identity{Provider: "fmp", ID: "q-1"}, time.Date(2026, 2, 13, 21, 0, 0, 0, time.UTC)
	for reason, says := range reasonDetails {
		first := Waiting(id, reason, "", at)
		want := "fmp " + says.what + ", " + says.until + " 2026-02-13T21:00:00Z"
		if again := Waiting(id, reason, first.Detail, at); first.Detail != want || again != first || first.Reason() != reason || first.Title != reasonTitles[reason] {
			t.Errorf("%s: %+v, and again %q", reason, first, again.Detail)
		}
		if without := Waiting(id, reason, "", time.Time{}); without.Detail != "fmp "+says.what {
			t.Errorf("%s without a time: %q", reason, without.Detail)
		}
	}
}

// What one who follows has not taken is bounded; what goes beyond is read again.
func TestWhatOneWhoFollowsHasNotTaken(t *testing.T) {
	w := newWatcher(&Client{agent: "alice"})
	f := &follower{arrivals: newArrivals[Answer](), seen: map[uint64]struct{}{}}
	w.followers[f] = struct{}{}
	for i := range answersHeld + 100 {
		if f.lost.Load() != (i > answersHeld) {
			t.Fatalf("lost at %d: %t", i, f.lost.Load())
		}
		w.tellAll(Answer{Sequence: uint64(i + 1)})
	}
	if n := f.size(); n != answersHeld {
		t.Errorf("%d are held", n)
	}
}

// A handler that has failed is called again after ever longer, up to a minute.
func TestHowSoonAHandlerIsCalledAgain(t *testing.T) {
	for delivered, want := range map[uint64]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 30: time.Minute, 64: time.Minute, 65: time.Minute, 1 << 40: time.Minute} {
		if got := handleAfter(delivered); got != want {
			t.Errorf("after %d times: %v", delivered, got)
		}
	}
}
