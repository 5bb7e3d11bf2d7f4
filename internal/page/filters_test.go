package page_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/html"
)

// used has the ledger know an agent.
func (r *rig) used(agent string) {
	r.t.Helper()
	m := nats.NewMsg(wire.UsageSubject("fmp", agent, time.Now(), "calls"))
	m.Header.Set("Nats-Incr", "+1")
	r.store(m)
	r.stored()
}

// A name or a word that there is none of is refused, with what was probably
// meant and what was written still in the form: it must not look like good news.
func TestATypingErrorInAFilterIsNoGoodNews(t *testing.T) {
	r := newRig(t, "")
	r.used("alice")
	r.has("/", "fmp")
	for path, want := range map[string]string{
		"/letters?provider=fpm":              `there is no provider "fpm". Did you mean fmp?`,
		"/review?provider=fpm&agent=alice":   `there is no provider "fpm". Did you mean fmp?`,
		"/waiting?provider=fpm":              `there is no provider "fpm". Did you mean fmp?`,
		"/agents?provider=fpm":               `there is no provider "fpm". Did you mean fmp?`,
		"/audit?provider=fpm":                `there is no provider "fpm". Did you mean fmp?`,
		"/events?provider=fpm":               `there is no provider "fpm". Did you mean fmp?`,
		"/letters?provder=fmp":               `there is no filter "provder". Did you mean provider?`,
		"/review?agnet=alice":                `there is no filter "agnet". Did you mean agent?`,
		"/waiting?agents=alice":              `there is no filter "agents". Did you mean agent?`,
		"/agents?sinc=7d":                    `there is no filter "sinc". Did you mean since?`,
		"/audit?acton=pause":                 `there is no filter "acton". Did you mean action?`,
		"/audit?since=2h":                    `there is no filter "since".`,
		"/events?kinds=circuit":              `there is no filter "kinds". Did you mean kind?`,
		"/review?limit=5":                    `there is no filter "limit".`,
		"/review?Provider=fmp":               `there is no filter "Provider". Did you mean provider?`,
		"/letters?provider=zzz":              `there is no provider "zzz". There are fmp, polygon.`,
		"/letters?agent=alcie":               `there is no agent "alcie". Did you mean alice?`,
		"/waiting?agent=alcie":               `there is no agent "alcie". Did you mean alice?`,
		"/agents?agent=alcie":                `there is no agent "alcie". Did you mean alice?`,
		"/audit?agent=alcie":                 `there is no agent "alcie". Did you mean alice?`,
		"/letters?class=transeint":           `there is no class "transeint". Did you mean transient?`,
		"/letters?class=bogus":               `there is no class "bogus".`,
		"/letters?http=999":                  `999 is not between 100 and 599`,
		"/letters?http=-5":                   `-5 is not between 100 and 599`,
		"/letters?http=99999999999999999999": `99999999999999999999 is not between 100 and 599`,
		"/letters?http=abc":                  `"abc" is no number. Write one between 100 and 599.`,
		"/letters?since=-1h":                 `"-1h" is not between 1s and 36500d`,
		"/letters?since=0s":                  `"0s" is not between 1s and 36500d`,
		"/letters?since=99999d":              `"99999d" is not between 1s and 36500d`,
		"/letters?since=99999999999h":        `"99999999999h" is not between 1s and 36500d`,
		"/letters?since=soon":                `"soon" is no time`,
		"/letters?group=-1":                  `-1 is not between 0 and`,
		"/letters?id=a%20b":                  `"a b" is no id of a request`,
		"/letters?operation=a%20b":           `"a b" is no name of`,
		"/agents?since=9999d":                `9999d is longer than the 400d that usage is kept`,
		"/agents?by=agnet":                   `there is no sum "agnet". Did you mean agent?`,
		"/events?kind=circiut":               `there is no kind of event "circiut". Did you mean circuit?`,
		"/audit?action=puase":                `there is no act "puase". Did you mean pause?`,
	} {
		code, body, tree := r.get(path)
		if text := strings.NewReplacer(" .", ".", " ?", "?").Replace(words(body)); code != http.StatusBadRequest || !strings.Contains(text, want) {
			t.Errorf("%s: %d, want %s\n%s", path, code, want, text)
			continue
		}
		for _, good := range []string{"Nothing matches", "Nobody has", "Nothing has happened", "Nothing waits", "No letter waits"} {
			if strings.Contains(body, good) {
				t.Errorf("%s says %q", path, good)
			}
		}
		// What was written stands in the form again.
		u, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range u.Query() {
			if input := find(tree, "input", "name", name); input != nil && attr(input, "value") != values[0] {
				t.Errorf("%s: the field %s holds %q", path, name, attr(input, "value"))
			}
		}
		if find(tree, "button", "", "") == nil || strings.Contains(body, `name="action"`) && find(tree, "form", "action", "/acts") != nil {
			t.Errorf("%s has no form, or offers acts", path)
		}
	}
	// What was meant is a link, and the field is marked.
	_, _, tree := r.get("/letters?agent=alice&provider=fpm")
	if link := find(tree, "a", "href", "?agent=alice&provider=fmp"); link == nil {
		t.Error("what was meant is no link")
	}
	if input := find(tree, "input", "name", "provider"); attr(input, "aria-invalid") != "true" || attr(input, "list") == "" {
		t.Error("the field is not marked")
	}
	// So is the name of a filter that was meant; all else stays.
	_, _, tree = r.get("/letters?agent=alice&provder=fmp")
	if link := find(tree, "a", "href", "?agent=alice&provider=fmp"); link == nil {
		t.Error("the filter that was meant is no link")
	}
	// Acts and tables are of the same filters.
	if code, _, body := r.post("/acts", url.Values{"action": {"cancel"}, "provider": {"fpm"}}); code != http.StatusBadRequest || !strings.Contains(words(body), `there is no provider "fpm"`) {
		t.Error(code, words(body))
	}
	for _, path := range []string{"/letters.csv?provider=fpm", "/letters.csv?provder=fmp"} {
		if code, _, _ := r.get(path); code != http.StatusBadRequest {
			t.Error(path, code)
		}
	}
}

// A name in capitals is the name; one that no list has any more is known by what
// is stored of it, and one that workers know without a key is known too.
func TestANameIsKnownByWhatIsStoredOfIt(t *testing.T) {
	r := newRig(t, "")
	r.used("alice")
	gone := letter("old-agent", "q-1", "gone")
	gone.Provider = "given-up"
	r.store(gone.ReviewItem())
	r.stored()
	if err := operate.RecordAct(t.Context(), r.JS, operate.Signature{By: "bea", Reason: "contract ended"}, operate.Act{Action: "retire", Provider: "fred"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/letters?agent=Alice", "/waiting?agent=ALICE&provider=FMP", "/letters?provider=given-up", "/letters?agent=old-agent", "/agents?agent=old-agent", "/audit?provider=fred", "/letters?provider=polygon", "/agents?since=400d", "/letters?since=1.5d&http=503"} {
		if code, body, _ := r.get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, words(body))
		}
	}
}

// Where nothing matches, the heading says so and nothing is offered to act on.
func TestNothingMatchesIsSaidEverywhere(t *testing.T) {
	r := newRig(t, "")
	for _, id := range []string{"q-1", "q-2", "q-3"} {
		r.store(letter("alice", id, "HTTP 503").DeadLetter())
	}
	r.stored()
	r.has("/letters", "Dead letters 3", "Replay all 3 now…", "Cancel all 3…", "CSV")
	if body := r.has("/letters?http=404", "Dead letters 0 of 3", "Nothing matches."); strings.Contains(body, " now…") || strings.Contains(body, "CSV") {
		t.Error("what does not match is offered to act on")
	}
	r.has("/letters?http=503", "Dead letters 3 of 3", "Replay 3 now…", "Cancel 3…")
	r.has("/letters?agent=alice", "Cancel 3 of alice…")
	r.has("/waiting?agent=alice", "Cancel 3 of alice…")
	r.has("/audit?action=retire", "No act matches.")
	r.has("/events?kind=budget", "No such event was told this week.")
}

// find is an element with an attribute, or any of that name.
func find(tree *html.Node, name, key, value string) (found *html.Node) {
	elements(tree, func(n *html.Node) {
		if found == nil && n.Type == html.ElementNode && n.Data == name && (key == "" || attr(n, key) == value) {
			found = n
		}
	})
	return found
}

func attr(n *html.Node, key string) string {
	if n != nil {
		for _, a := range n.Attr {
			if a.Key == key {
				return a.Val
			}
		}
	}
	return ""
}
