package answer_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

var id = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}

func failed(generation int, review bool) fetchworker.Answer {
	p := fetchworker.Failure(id, fetchworker.CodeRejected, "")
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusFailed, Final: true, Review: review, Generation: generation, Problem: &p}
}

func waiting(generation int) fetchworker.Answer {
	p := fetchworker.Waiting(id, fetchworker.ReasonPaused, "", time.Time{})
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusWaiting, Generation: generation, Problem: &p}
}

func ok(generation int) fetchworker.Answer {
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: generation, Body: []byte("{}")}
}

// What ends a request is what nothing that it says can replace: the question
// and the order of answers must never part.
func TestEndsIsTheOrderOfAnswers(t *testing.T) {
	all := map[string]func(int) fetchworker.Answer{
		"ok": ok, "waiting": waiting,
		"failed": func(g int) fetchworker.Answer { return failed(g, false) },
		"review": func(g int) fetchworker.Answer { return failed(g, true) },
	}
	for name, of := range all {
		for stood := 1; stood <= 3; stood++ {
			s := answer.Standing{Stands: true, Answer: of(stood)}
			replaceable := record.AnswerReplaces(s.Answer, ok(2))
			if s.Ends(2) == replaceable {
				t.Errorf("%s of generation %d: ends generation 2: %t, but an ok of it replaces it: %t", name, stood, s.Ends(2), replaceable)
			}
			if got, want := s.Reviewed(2), name == "review" && stood == 2; got != want {
				t.Errorf("%s of generation %d: reviewed %t", name, stood, got)
			}
		}
	}
	if (answer.Standing{}).Ends(1) {
		t.Error("nothing ends a request")
	}
}

// Who has read what stands, who read it before another wrote, and who has not
// looked, write by the same rule.
func TestWhatWasReadIsReplacedByTheRule(t *testing.T) {
	b := brokertest.Start(t)
	store := answer.New(record.New(b.JS, nil))
	ctx := t.Context()
	var all []fetchworker.Answer
	for generation := 1; generation <= 2; generation++ {
		stale := fetchworker.Answer{Status: fetchworker.StatusStale, Generation: generation, Body: []byte("{}"), Reason: fetchworker.ReasonPaused}
		all = append(all, ok(generation), waiting(generation), stale, failed(generation, false), failed(generation, true))
	}
	n := 0
	for _, stood := range all {
		for _, next := range all {
			for _, looks := range []string{"read", "read before", "not looked"} {
				n++
				stood.Identity, next.Identity = id, id
				stood.Identity.ID, next.Identity.ID = fmt.Sprint("q-", n), fmt.Sprint("q-", n)
				if _, stored, err := store.Put(ctx, stood, ""); err != nil || !stored {
					t.Fatal(stored, err)
				}
				var seen answer.Standing
				var err error
				if looks != "not looked" {
					if seen, err = store.Read(ctx, next.Identity); err != nil || !seen.Stands {
						t.Fatal(seen.Stands, err)
					}
				}
				if looks == "read before" { // and another has ended it since, unless it had its end
					higher := ok(3)
					higher.Identity = next.Identity
					if _, _, err := store.Put(ctx, higher, ""); err != nil {
						t.Fatal(err)
					}
				}
				want := looks != "read before" && record.AnswerReplaces(stood, next)
				_, stored, err := store.Replace(ctx, seen, next, "")
				if err != nil || stored != want {
					t.Errorf("%s, %s of %d over %s of %d: stored %t, %v", looks, next.Status, next.Generation, stood.Status, stood.Generation, stored, err)
				}
			}
		}
	}
}

func TestWhatWasReadGoesIntoTheWrite(t *testing.T) {
	b := brokertest.Start(t)
	writes := 0
	store := answer.New(record.New(b.JS, func(_ string, persisted bool) error {
		if persisted {
			writes++
		}
		return nil
	}))
	ctx := t.Context()
	stands, err := store.Read(ctx, id)
	if err != nil || stands.Stands {
		t.Fatalf("%+v %v", stands, err)
	}
	if stands, stored, err := store.Replace(ctx, stands, waiting(1), ""); err != nil || !stored || !stands.Stands || stands.Status != fetchworker.StatusWaiting {
		t.Fatalf("%+v %t %v", stands, stored, err)
	}
	before := b.NC.Stats().OutMsgs
	stands, err = store.Read(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if stands, _, err = store.Replace(ctx, stands, ok(1), ""); err != nil {
		t.Fatal(err)
	}
	if trips := b.NC.Stats().OutMsgs - before; trips != 2 {
		t.Errorf("read and replaced in %d messages, want 2", trips)
	}
	// What cannot replace it is not written, and its copy sent all the same.
	copies, err := b.NC.SubscribeSync("fetch.reply.alice.x")
	if err != nil {
		t.Fatal(err)
	}
	writes = 0
	if got, stored, err := store.Replace(ctx, stands, failed(1, false), "fetch.reply.alice.x"); err != nil || stored || got.Status != fetchworker.StatusOK || writes != 0 {
		t.Errorf("%+v %t %v, %d writes", got, stored, err, writes)
	}
	m, err := copies.NextMsg(5 * time.Second)
	if err != nil || string(m.Data) != "{}" || m.Header.Get(wire.HeaderStatus) != "ok" {
		t.Errorf("copy: %+v %v", m, err)
	}
	// So is the copy of what was read, without what the server adds to it.
	read, err := store.Read(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Copy(read, "fetch.reply.alice.x"); err != nil {
		t.Fatal(err)
	}
	if m, err = copies.NextMsg(5 * time.Second); err != nil || string(m.Data) != "{}" {
		t.Fatalf("copy: %+v %v", m, err)
	}
	for header := range m.Header {
		if strings.HasPrefix(header, "Nats-") {
			t.Errorf("a copy with %s", header)
		}
	}
	// Seen too long ago: another has written meanwhile.
	if _, stored, err := store.Replace(ctx, answer.Standing{}, ok(1), ""); err != nil || stored {
		t.Errorf("a second ok: %t %v", stored, err)
	}
}

func TestALargeBodyIsStoredBeforeItsAnswer(t *testing.T) {
	b := brokertest.Start(t)
	var steps []string
	store := answer.New(record.New(b.JS, func(point string, persisted bool) error {
		if persisted && point == "answer" {
			steps = append(steps, point)
		}
		return nil
	}))
	body := bytes.Repeat([]byte("0123456789abcdef"), 80_000) // 1.28 MB: three parts
	a := ok(1)
	a.Body = body
	stands, stored, err := store.Put(t.Context(), a, "")
	if err != nil || !stored || stands.Claim == nil || stands.Claim.Parts != 3 || stands.Body != nil || len(steps) != 1 {
		t.Fatalf("%+v %t %v", stands, stored, err)
	}
	var whole []byte
	for part := range stands.Claim.Parts {
		m, err := b.NC.Request("$JS.API.DIRECT.GET."+fetchworker.StreamBodies+"."+stands.Claim.Prefix+"."+string(rune('1'+part)), nil, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		whole = append(whole, m.Data...)
	}
	if !bytes.Equal(whole, body) {
		t.Errorf("%d bytes read, %d stored", len(whole), len(body))
	}

	// The same body under another id lies there already; another agent's does
	// not: nobody reads what is not his.
	held := func() uint64 {
		s, err := b.JS.Stream(t.Context(), fetchworker.StreamBodies)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.LastSeq
	}
	before := held()
	a.Identity.ID = "q-2"
	again, _, err := store.Put(t.Context(), a, "")
	if err != nil || *again.Claim != *stands.Claim || held() != before {
		t.Errorf("%+v %v, %d messages stored for it", again.Claim, err, held()-before)
	}
	a.Identity.Agent = "bob"
	others, _, err := store.Put(t.Context(), a, "")
	if err != nil || !strings.HasPrefix(others.Claim.Prefix, "fetch.body.bob.") || held() == before {
		t.Errorf("%+v %v", others.Claim, err)
	}
}

// What cannot be read ends nothing, and gives way to anything.
func TestAnAnswerThatCannotBeReadStandsForNothing(t *testing.T) {
	b := brokertest.Start(t)
	if _, err := b.JS.Publish(t.Context(), "fetch.put.fmp.quote.alice.q-1", []byte("?")); err != nil {
		t.Fatal(err)
	}
	store := answer.New(record.New(b.JS, nil))
	stands, err := store.Read(t.Context(), id)
	if err != nil || stands.Stands || stands.Ends(1) {
		t.Errorf("%+v %v", stands, err)
	}
	if _, stored, err := store.Replace(t.Context(), stands, waiting(1), ""); err != nil || !stored {
		t.Errorf("stored %t: %v", stored, err)
	}
}

// A reply place gets the copy of what was stored, and of the end that stands;
// none of what stands and is no end.
func TestWhatIsNoEndIsNotCopiedAgain(t *testing.T) {
	b := brokertest.Start(t)
	store := answer.New(record.New(b.JS, nil))
	copies, err := b.NC.SubscribeSync("fetch.reply.alice.x")
	if err != nil {
		t.Fatal(err)
	}
	stale := ok(1)
	stale.Status, stale.Final = fetchworker.StatusStale, false
	for i, a := range []fetchworker.Answer{stale, waiting(1), ok(1), failed(1, false)} {
		if _, _, err := store.Put(t.Context(), a, "fetch.reply.alice.x"); err != nil {
			t.Fatal(err)
		}
		if err := b.NC.Flush(); err != nil {
			t.Fatal(err)
		}
		want := []int{1, 1, 2, 3}[i] // the waiting one is not stored, and what stands is no end
		if n, _, err := copies.Pending(); err != nil || n != want {
			t.Errorf("%d copies after %d answers, want %d: %v", n, i+1, want, err)
		}
	}
}

// On a stream of an earlier version, which keeps nothing for a time of its own,
// a refusal is stored all the same.
func TestARefusalOnAnOlderStream(t *testing.T) {
	b := brokertest.Start(t)
	stream, err := b.JS.Stream(t.Context(), fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	if err := b.JS.DeleteStream(t.Context(), fetchworker.StreamResults); err != nil {
		t.Fatal(err)
	}
	config.AllowMsgTTL, config.SubjectDeleteMarkerTTL = false, 0
	if _, err := b.JS.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	store := answer.New(record.New(b.JS, nil))
	if stands, stored, err := store.Put(t.Context(), failed(1, false), ""); err != nil || !stored || !stands.Stands {
		t.Errorf("%+v %t %v", stands, stored, err)
	}
}

// Only so many parts of bodies are on their way at once.
func TestPartsTakeTurns(t *testing.T) {
	b := brokertest.Start(t)
	var mu sync.Mutex
	now, most := 0, 0
	store := answer.New(record.New(b.JS, func(point string, persisted bool) error {
		if point != "body" {
			return nil
		}
		mu.Lock()
		if persisted {
			now--
		} else {
			now++
			most = max(most, now)
		}
		mu.Unlock()
		if !persisted {
			time.Sleep(5 * time.Millisecond) // it is on its way for a while
		}
		return nil
	}))
	a := ok(1)
	a.Body = bytes.Repeat([]byte("0123456789abcdef"), 12*fetchworker.MaxInlineBody/16)
	if _, _, err := store.Put(t.Context(), a, ""); err != nil || most < 2 || most > 4 {
		t.Errorf("%d parts at once, %v", most, err)
	}
}

// Of a body whose parts could not all be stored nothing says that it is there,
// so that the next try stores it whole.
func TestABodyWithAMissingPartIsNone(t *testing.T) {
	b := brokertest.Start(t)
	a := ok(1)
	a.Body = bytes.Repeat([]byte("0123456789abcdef"), 80_000) // three parts
	for missing := range 4 {
		n := 0
		a.Identity.Agent = "agent-" + string(rune('a'+missing))
		var mu sync.Mutex
		store := answer.New(record.New(b.JS, func(point string, persisted bool) error {
			mu.Lock()
			defer mu.Unlock()
			if point == "body" && !persisted {
				if n++; n == missing+1 {
					return errors.New("the disk is full")
				}
			}
			return nil
		}))
		if _, stored, err := store.Put(t.Context(), a, ""); err == nil || stored {
			t.Fatalf("without part %d: stored %t, %v", missing+1, stored, err)
		}
		stands, stored, err := store.Put(t.Context(), a, "")
		if err != nil || !stored {
			t.Fatalf("%t %v", stored, err)
		}
		for part := range stands.Claim.Parts {
			m, err := b.NC.Request("$JS.API.DIRECT.GET."+fetchworker.StreamBodies+"."+stands.Claim.Prefix+"."+string(rune('1'+part)), nil, 5*time.Second)
			if err != nil || len(m.Data) == 0 {
				t.Errorf("without part %d at first: part %d is %v, %v", missing+1, part+1, m, err)
			}
		}
	}
}
