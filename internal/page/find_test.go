package page_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// leads is where a search leads at once; empty where it lists, or finds nothing.
func (r *rig) leads(q string) (to, body string) {
	r.t.Helper()
	answer, err := r.client.Get(r.URL + "/find?q=" + q)
	if err != nil {
		r.t.Fatal(err)
	}
	to = answer.Header.Get("Location")
	_, body, _ = r.read(answer)
	return to, words(body)
}

// A request is found by its id, by a part of it in any case, and an agent by its
// name; what can be only one thing is opened at once.
func TestFindOpensWhatItFinds(t *testing.T) {
	r := newRig(t, "")
	r.used("carol")
	for _, id := range []string{"Quote-AAPL-17", "Quote-MSFT-18", "dup"} {
		r.store(letter("alice", id, "HTTP 503").DeadLetter())
	}
	r.store(letter("bob", "dup", "gone").ReviewItem())
	r.stored()
	for q, want := range map[string]string{
		"Quote-AAPL-17":       "/request/fmp/quote/alice/Quote-AAPL-17",
		"alice/Quote-AAPL-17": "/request/fmp/quote/alice/Quote-AAPL-17",
		"Alice/Quote-AAPL-17": "/request/fmp/quote/alice/Quote-AAPL-17",
		"quote-aapl-17":       "/request/fmp/quote/alice/Quote-AAPL-17",
		"aapl":                "/request/fmp/quote/alice/Quote-AAPL-17",
		"Quote-M":             "/request/fmp/quote/alice/Quote-MSFT-18",
		"bob/d":               "/request/fmp/quote/bob/dup",
		"bob/dup":             "/request/fmp/quote/bob/dup",
		"alice":               "/agent/alice",
		"ALICE":               "/agent/alice",
		"alice/":              "/agent/alice",
		"carol":               "/agent/carol",
	} {
		if to, body := r.leads(q); to != want {
			t.Errorf("%s leads to %q: %s", q, to, body)
		}
	}
	for q, want := range map[string]string{
		"dup":      "2 requests have the id dup",
		"quote":    "2 requests have quote in the name",
		"nothing":  "Nothing is stored of nothing",
		"a%20b":    "Nothing is stored of a b",
		"":         "Write an id or a part of one",
		"%3Cb%3E":  "Nothing is stored of <b>",
		"a/b/c":    "Nothing is stored of a/b/c",
		"alice/zz": "Nothing is stored of alice/zz",
	} {
		if to, body := r.leads(q); to != "" || !strings.Contains(body, want) {
			t.Errorf("%q leads to %q: %s", q, to, body)
		}
	}
	r.has("/agent/alice", "What waits", "Dead letters", "In review", "alice/Quote-AAPL-17", "alice/dup", "Nothing was called for it today.")
	r.has("/agent/carol", "Today", "fmp", "Nothing is stored of them")
	if code, body, _ := r.get("/agent/crol"); code != http.StatusNotFound || !strings.Contains(words(body), "did you mean carol?") {
		t.Error(code, words(body))
	}
	for _, v := range []string{"/agent/alice", "/agent/carol", "/find?q=dup"} {
		r.sound(v)
	}
}

// Every name on a view leads to what it names, the same place wherever it stands.
func TestNamesAreLinks(t *testing.T) {
	r := newRig(t, "")
	r.store(letter("alice", "q-1", "HTTP 503").DeadLetter())
	r.store(letter("alice", "q-2", "gone").ReviewItem())
	m := nats.NewMsg(wire.UsageSubject("fmp", "alice", time.Now(), "calls"))
	m.Header.Set("Nats-Incr", "+7")
	r.store(m)
	for cause, n := range map[string]int{"transient-503": 4, "transient-timeout": 2} {
		m := nats.NewMsg(wire.CauseSubject("fmp", "quote", time.Now(), cause))
		m.Header.Set("Nats-Incr", fmt.Sprintf("+%d", n))
		r.store(m)
	}
	r.stored()
	desk, err := operate.Open(t.Context(), r.NC)
	if err != nil {
		t.Fatal(err)
	}
	if err := dlq.Emit(t.Context(), desk.Log, dlq.Event{Kind: "review", Provider: "fmp", ID: "q-2", Time: time.Now(), Data: map[string]string{"operation": "quote", "agent": "alice", "id": "q-2", "code": "rejected"}}); err != nil {
		t.Fatal(err)
	}
	if err := dlq.Emit(t.Context(), desk.Log, dlq.Event{Kind: budget.KindCircuit, Provider: "fmp", ID: "open", Time: time.Now(), Data: map[string]string{"state": "open"}}); err != nil {
		t.Fatal(err)
	}
	r.has("/", "most for alice")
	for path, links := range map[string][]string{
		"/":                            {"/provider/fmp", "/agent/alice"},
		"/provider/fmp":                {"/agent/alice"},
		"/letters":                     {"/provider/fmp", "/request/fmp/quote/alice/q-1"},
		"/review":                      {"/provider/fmp", "/request/fmp/quote/alice/q-2"},
		"/agents":                      {"/provider/fmp", "/agent/alice", "/letters?class=transient&http=503&operation=quote&provider=fmp", "/letters?class=transient&operation=quote&provider=fmp"},
		"/events":                      {"/provider/fmp", "/request/fmp/quote/alice/q-2"},
		"/request/fmp/quote/alice/q-1": {"/provider/fmp", "/agent/alice"},
		"/letters?class=transient&http=503&operation=quote&provider=fmp": {"/request/fmp/quote/alice/q-1"},
	} {
		_, body, tree := r.get(path)
		for _, link := range links {
			if find(tree, "a", "href", link) == nil {
				t.Errorf("%s has no link %s\n%s", path, link, words(body))
			}
		}
	}
}
