package page_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// An act is planned, told with what it means, confirmed with the number where
// there are many, done, and stands in the audit; nothing else changes anything.
func TestAnActIsPlannedConfirmedAndAudited(t *testing.T) {
	r := newRig(t, "")
	for n := range 120 {
		l := letter("alice", fmt.Sprint("q-", n), "HTTP 422")
		r.store(l.ReviewItem())
	}
	r.stored()
	code, to, _ := r.post("/acts", url.Values{"action": {"discard"}, "provider": {"fmp"}})
	if code != http.StatusSeeOther || !strings.HasPrefix(to, "/acts/") {
		t.Fatal(code, to)
	}
	r.has(to, "120 messages to discard", "cannot be undone", "Type 120")
	for name, form := range map[string]url.Values{
		"no name":      {"reason": {"why"}, "count": {"120"}},
		"no reason":    {"by": {"bea"}, "count": {"120"}},
		"no number":    {"by": {"bea"}, "reason": {"why"}},
		"wrong number": {"by": {"bea"}, "reason": {"why"}, "count": {"12"}},
		"no rate":      {"by": {"bea"}, "reason": {"why"}, "count": {"120"}, "rate": {"fast"}},
	} {
		if code, _, _ := r.post(to+"/confirm", form); code != http.StatusBadRequest {
			t.Errorf("%s: %d", name, code)
		}
	}
	if n := r.count(wire.StreamReview) + 1000*r.count(wire.StreamAudit); n != 120 {
		t.Errorf("before it is confirmed: %d", n)
	}
	// Slow, stopped in the middle: what was begun is done, the rest untouched.
	if code, _, body := r.post(to+"/confirm", url.Values{"by": {"bea"}, "reason": {"producer fixed"}, "count": {"120"}, "rate": {"10"}}); code != http.StatusSeeOther {
		t.Fatal(code, words(body))
	}
	r.has(to, "of 120 done", "left; by bea: producer fixed", "Stop")
	if code, _, _ := r.post(to+"/stop", nil); code != http.StatusSeeOther {
		t.Error(code)
	}
	r.has(to, "Stopped.", "the rest was not touched")
	left, audited := r.count(wire.StreamReview), r.count(wire.StreamAudit)
	if left == 0 || left == 120 || left+audited != 120 {
		t.Errorf("%d left, %d audited", left, audited)
	}
	r.has("/audit", "bea", "producer fixed", "discard")
	// Stopped before anybody confirmed it: it is over, and cannot be confirmed.
	_, planned, _ := r.post("/acts", url.Values{"action": {"discard"}, "provider": {"fmp"}, "operation": {"quote"}, "agent": {"alice"}, "id": {"q-118"}})
	r.has(planned, "1 message to discard")
	for _, step := range []string{"/stop", "/confirm"} {
		if code, _, _ := r.post(planned+step, url.Values{"by": {"bea"}, "reason": {"no"}}); code != http.StatusSeeOther {
			t.Error(code)
		}
	}
	r.has(planned, "Stopped.", "nothing was changed")
	if n := r.count(wire.StreamReview); n != left {
		t.Errorf("%d items, want %d", n, left)
	}
	// One that nobody confirmed, and one item by its name, which somebody else takes.
	code, to, _ = r.post("/acts", url.Values{"action": {"requeue"}, "provider": {"fmp"}, "operation": {"quote"}, "agent": {"alice"}, "id": {"q-119"}})
	if code != http.StatusSeeOther {
		t.Fatal(code)
	}
	_, other, _ := r.post("/acts", url.Values{"action": {"requeue"}, "provider": {"fmp"}, "operation": {"quote"}, "agent": {"alice"}, "id": {"q-119"}})
	for _, act := range []string{to, other} {
		r.has(act, "1 message to requeue")
	}
	for _, act := range []string{to, other} {
		if code, _, _ := r.post(act+"/confirm", url.Values{"by": {"bea"}, "reason": {"again"}}); code != http.StatusSeeOther {
			t.Error(code)
		}
	}
	done := 0
	for _, act := range []string{to, other} {
		if strings.Contains(words(r.has(act, "Back to the list")), " 1 of 1 done") {
			done++
		}
	}
	if done != 1 {
		t.Errorf("%d of two operators have done it", done)
	}
	if n := r.count(wire.StreamDLQ); n != 1 {
		t.Errorf("%d letters of one item", n)
	}
	for _, form := range []url.Values{{"action": {"requeue"}}, {"action": {"explode"}, "provider": {"fmp"}}, {"action": {"replay"}, "provider": {"A B"}}} {
		if code, _, _ := r.post("/acts", form); code != http.StatusBadRequest {
			t.Errorf("%v: %d", form, code)
		}
	}
}

// What the command line can choose, the page can: so many only, deadlines kept,
// a request edited, what is queued cancelled, everything as a table.
func TestTheActsOfTheCommandLineAreThePagesToo(t *testing.T) {
	r := newRig(t, "")
	for n := range 5 {
		l := letter("alice", fmt.Sprint("q-", n), "=1+1")
		l.Deadline = time.Now().Add(-time.Minute)
		r.store(l.ReviewItem())
	}
	r.store(letter("alice", "q-9", "HTTP 503").DeadLetter())
	r.store(&nats.Msg{Subject: fetchworker.RequestSubject("fmp", fetchworker.LaneBatch, "quote", "alice"), Data: []byte(`{"id":"q-10","params":{"symbol":"AAPL"}}`)})
	r.stored()
	_, text, _ := r.get("/review.csv?provider=fmp")
	if rows := strings.Split(strings.TrimSpace(text), "\n"); len(rows) != 6 || !strings.HasPrefix(rows[0], "provider,operation,agent,id") || !strings.Contains(rows[1], ",'=1+1,") {
		t.Errorf("%s", text)
	}
	if code, _, _ := r.get("/letters.csv?provider=A%20B"); code != http.StatusBadRequest {
		t.Error(code)
	}
	begin := func(form url.Values) string {
		t.Helper()
		code, to, body := r.post("/acts", form)
		if code != http.StatusSeeOther {
			t.Fatal(code, words(body))
		}
		return to
	}
	confirm := func(act string, want int, form url.Values) {
		t.Helper()
		form.Set("by", "bea")
		form.Set("reason", "as said")
		if code, _, body := r.post(act+"/confirm", form); code != want {
			t.Errorf("%d %s", code, words(body))
		}
	}
	act := begin(url.Values{"action": {"requeue"}, "provider": {"fmp"}, "limit": {"2"}, "keep_deadline": {"1"}})
	r.has(act, "2 messages to requeue", "more match: these are the first 2", "those of 2 have passed")
	confirm(act, http.StatusSeeOther, url.Values{})
	r.has(act, "2 of 2 done")
	if n := r.count(wire.StreamReview); n != 3 {
		t.Errorf("%d items are left", n)
	}
	// Edited: what is not a request, or another one, is refused, and nothing is done.
	act = begin(url.Values{"action": {"requeue"}, "provider": {"fmp"}, "operation": {"quote"}, "agent": {"alice"}, "id": {"q-4"}})
	r.has(act, "1 message to requeue", `{"params":{"symbol":"AAPL"}}`)
	for _, bad := range []string{`{"params":{"symbol":"` + strings.Repeat("M", fetchworker.MaxRequestBytes) + `"}}`, `{"params":`, `{"id":"q-5","params":{"symbol":"MSFT"}}`, ``} {
		confirm(act, http.StatusBadRequest, url.Values{"body": {bad}})
	}
	confirm(act, http.StatusSeeOther, url.Values{"body": {"{\"params\":\r\n{\"symbol\":\"MSFT\"}}"}})
	r.has(act, "1 of 1 done")
	if stream, err := r.JS.Stream(t.Context(), wire.StreamDLQ); err != nil {
		t.Error(err)
	} else if m, err := stream.GetMsg(t.Context(), stream.CachedInfo().State.LastSeq); err != nil || string(m.Data) != "{\"params\":\n{\"symbol\":\"MSFT\"}}" {
		t.Errorf("%v %v", m, err)
	}
	r.has("/request/fmp/quote/alice/q-4", `"MSFT"`)
	// A cancel is of what is queued as well.
	act = begin(url.Values{"action": {"cancel"}, "provider": {"fmp"}, "agent": {"alice"}})
	r.has(act, "5 messages to cancel", "in a queue or is at work")
	confirm(act, http.StatusSeeOther, url.Values{})
	r.has(act, "5 of 5 done")
	if n := r.count(wire.StreamDLQ) + 1000*r.count(fetchworker.StreamRequests); n != 0 {
		t.Errorf("%d are left", n)
	}
	for _, form := range []url.Values{{"action": {"requeue"}, "provider": {"fmp"}, "limit": {"few"}}, {"action": {"requeue"}, "provider": {"fmp"}, "limit": {"-1"}}} {
		if code, _, _ := r.post("/acts", form); code != http.StatusBadRequest {
			t.Errorf("%v: %d", form, code)
		}
	}
}
