package page_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/wire"

	"golang.org/x/net/html"
)

// beside is the message that stands with a field.
func beside(tree *html.Node, field string) (text string) {
	elements(tree, func(n *html.Node) {
		if n.Type != html.ElementNode || n.Data != "label" && n.Data != "fieldset" {
			return
		}
		mine := false
		elements(n, func(c *html.Node) { mine = mine || c.Type == html.ElementNode && attr(c, "name") == field })
		if em := find(n, "em", "class", "wrong"); mine && em != nil {
			text = em.FirstChild.Data
		}
	})
	return text
}

// sent posts a form and reads what comes back.
func (r *rig) sent(path string, form url.Values) (int, string, *html.Node) {
	r.t.Helper()
	code, _, body := r.post(path, form)
	tree, err := html.Parse(strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	return code, body, tree
}

// Whatever is wrong in the form of an order, the form comes back as it was
// written, with what is wrong and what may be written beside the field.
func TestAWrongOrderKeepsItsForm(t *testing.T) {
	r := newRig(t, "")
	if err := fleet.Beat(t.Context(), r.JS, fleet.Worker{Name: "w-1", Providers: []string{"fmp"}, Limits: map[string]string{"fmp": "60/min"}}); err != nil {
		t.Fatal(err)
	}
	r.has("/provider/fmp", "w-1")
	good := url.Values{"do": {"limit"}, "provider": {"fmp"}, "limits": {"30/min"}, "for": {"2h"}, "by": {"bea"}, "reason": {"429s since noon"}}
	for _, c := range []struct{ field, value, says string }{
		{"for", "-1h", `"-1h" is not between 1s and 36500d`},
		{"for", "0s", `"0s" is not between 1s and 36500d`},
		{"for", "99999d", `is not between 1s and 36500d`},
		{"for", "an hour", `"an hour" is no time`},
		{"limits", "banana", `a limit is written`},
		{"limits", "0/min", `could mean none`},
		{"limits", "0", `could mean none`},
		{"limits", "1e9/min", `a limit is written`},
		{"limits", "99999999999/min", `is no limit`},
		{"limits", "61/min", ``}, // beside the tick
		{"by", "", `Say who you are`},
		{"by", "  ", `Say who you are`},
		{"reason", "", `Give a reason`},
		{"provider", "fpm", `There is no provider "fpm"`},
		{"provider", "", `Choose at least one provider`},
	} {
		form := url.Values{}
		for name, values := range good {
			form[name] = values
		}
		if form.Set(c.field, c.value); c.field == "provider" && c.value == "" {
			form.Del("provider")
		}
		code, body, tree := r.sent("/control", form)
		if c.says == "" {
			if code != http.StatusBadRequest || !strings.Contains(words(body), "more than the 60/min") {
				t.Errorf("%s=%q: %d %s", c.field, c.value, code, words(body))
			}
		} else if got := beside(tree, c.field); code != http.StatusBadRequest || !strings.Contains(got, c.says) {
			t.Errorf("%s=%q: %d, beside it stands %q\n%s", c.field, c.value, code, got, words(body))
		}
		for _, name := range []string{"limits", "for", "by", "reason"} {
			if got := attr(find(tree, "input", "name", name), "value"); got != form.Get(name) && (name != "by" || got != "ann") {
				t.Errorf("%s=%q: the field %s holds %q", c.field, c.value, name, got)
			}
		}
		if strings.Contains(body, "data-live") {
			t.Error("what answers a form watches nothing")
		}
	}
	// None is ticked any more, also of all: the message is at the ticks.
	if code, _, tree := r.sent("/control", url.Values{"do": {"pause"}, "all": {"1"}, "for": {"1h"}, "by": {"bea"}, "reason": {"move"}}); code != http.StatusBadRequest || !strings.Contains(beside(tree, "provider"), "at least one") || attr(find(tree, "input", "name", "reason"), "value") != "move" {
		t.Error(code, beside(tree, "provider"))
	}
	// What the form does not have is not passed over.
	form := url.Values{"resaon": {"x"}}
	for name, values := range good {
		form[name] = values
	}
	if code, body, _ := r.sent("/control", form); code != http.StatusBadRequest || !strings.Contains(words(body), `no field "resaon". Did you mean reason?`) {
		t.Error(code, words(body))
	}
	if n := r.count(wire.StreamAudit); n != 0 {
		t.Errorf("%d acts were done", n)
	}
	// A link with a typing error in it says so.
	if code, body, _ := r.get("/control?do=pause&provider=fpm"); code != http.StatusBadRequest || !strings.Contains(words(body), "Did you mean fmp ?") && beside(parse(t, body), "provider") == "" {
		t.Error(code, words(body))
	}
}

func parse(t *testing.T, body string) *html.Node {
	t.Helper()
	tree, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// So does a plan's form; and a plan that was confirmed once is not confirmed
// with something else.
func TestAWrongConfirmationKeepsItsForm(t *testing.T) {
	r := newRig(t, "")
	r.store(letter("alice", "q-1", "HTTP 422").ReviewItem())
	r.stored()
	_, act, _ := r.post("/acts", url.Values{"action": {"requeue"}, "provider": {"fmp"}})
	r.has(act, "1 message to requeue", "Counted now", "See them in the list")
	good := url.Values{"by": {"bea"}, "reason": {"the symbol was wrong"}, "rate": {"10"}, "canary": {"1"}, "body": {`{"params":{"symbol":"MSFT"}}`}}
	for _, c := range []struct{ field, value, says string }{
		{"by", "", "Say who you are"},
		{"reason", " ", "Give a reason"},
		{"rate", "fast", `"fast" is no number between 0 and 1000000`},
		{"rate", "-1", `is no number between`},
		{"rate", "NaN", `is no number between`},
		{"canary", "-5", "-5 is not between 1 and"},
		{"canary", "99999999999999999999", "is not between 1 and"},
		{"canary", "some", `"some" is no number`},
		{"body", `{"params":`, ""},
	} {
		form := url.Values{}
		for name, values := range good {
			form[name] = values
		}
		form.Set(c.field, c.value)
		code, body, tree := r.sent(act+"/confirm", form)
		if got := beside(tree, c.field); code != http.StatusBadRequest || got == "" || !strings.Contains(got, c.says) {
			t.Errorf("%s=%q: %d, beside it stands %q\n%s", c.field, c.value, code, got, words(body))
		}
		for _, name := range []string{"reason", "rate", "canary"} {
			if got := attr(find(tree, "input", "name", name), "value"); got != form.Get(name) {
				t.Errorf("%s=%q: the field %s holds %q", c.field, c.value, name, got)
			}
		}
		if area := find(tree, "textarea", "name", "body"); area == nil || area.FirstChild == nil || area.FirstChild.Data != form.Get("body") {
			t.Errorf("%s=%q: the edited request is gone", c.field, c.value)
		}
	}
	if code, _, tree := r.sent("/acts", url.Values{"action": {"requeue"}, "provider": {"fmp"}, "from": {strings.TrimPrefix(act, "/acts/")}, "limit": {"few"}}); code != http.StatusBadRequest || !strings.Contains(beside(tree, "limit"), `"few" is no number`) {
		t.Error(code, beside(tree, "limit"))
	}
	if code, body, _ := r.sent(act+"/confirm", url.Values{"by": {"bea"}, "reason": {"x"}, "boddy": {"{}"}}); code != http.StatusBadRequest || !strings.Contains(words(body), "Did you mean body") {
		t.Error(code, words(body))
	}
	if n := r.count(wire.StreamAudit); n != 0 {
		t.Fatalf("%d acts were done", n)
	}
	good.Del("canary")
	if code, to, body := r.post(act+"/confirm", good); code != http.StatusSeeOther || to != act {
		t.Fatal(code, words(body))
	}
	r.has(act, "1 of 1 done", "Those that came after the plan were not touched.")
	// Pressed twice: seen, and not done twice. With something else: told.
	if code, to, _ := r.post(act+"/confirm", good); code != http.StatusSeeOther || to != act {
		t.Error(code, to)
	}
	good.Set("body", `{"params":{"symbol":"GOOG"}}`)
	if code, body, _ := r.sent(act+"/confirm", good); code != http.StatusBadRequest || !strings.Contains(words(body), "was confirmed before, by bea: what you have sent now was not done") {
		t.Error(code, words(body))
	}
	if n := r.count(wire.StreamAudit); n != 1 {
		t.Errorf("%d acts were done", n)
	}
	if code, to := func() (int, string) {
		answer, err := r.client.Get(r.URL + act + "/confirm")
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode, answer.Header.Get("Location")
	}(); code != http.StatusSeeOther || to != act {
		t.Error(code, to)
	}
}

// A replay that nothing would come of says that first, and how to end what
// stands in its way; nothing else is said of what would be.
func TestARefusedReplaySaysSoFirst(t *testing.T) {
	r := newRig(t, "")
	r.store(letter("alice", "q-1", "HTTP 503").DeadLetter())
	r.stored()
	if err := fleet.Pause(t.Context(), r.KV, "fmp", time.Now().Add(time.Hour), "bea", "the network moves"); err != nil {
		t.Fatal(err)
	}
	r.has("/provider/fmp", "paused")
	_, act, _ := r.post("/acts", url.Values{"action": {"replay"}, "provider": {"fmp"}})
	body := r.has(act, "1 message to replay")
	text := words(body)
	if no, count := strings.Index(text, "Not now:"), strings.Index(text, "1 message to replay"); no < 0 || no > count {
		t.Errorf("the refusal is not first: %s", text)
	}
	if strings.Contains(text, "They become due now") || strings.Count(text, "is paused by bea") != 1 {
		t.Errorf("what would be is told too, or the refusal twice: %s", text)
	}
	tree := parse(t, body)
	if find(tree, "a", "href", "/control?do=resume&provider=fmp") == nil || find(tree, "a", "href", "/letters?provider=fmp") == nil {
		t.Error("neither a way on nor a way back")
	}
}
