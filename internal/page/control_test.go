package page_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Providers are paused, all at once, limited and resumed, with a reason.
func TestProvidersAreStoppedAndLetGo(t *testing.T) {
	r := newRig(t, "")
	r.has("/control?do=pause&all=1&for=1h", "Pause everything", "fmp", "Within a second nobody calls any more")
	form := url.Values{"do": {"pause"}, "provider": {"fmp"}, "for": {"1h"}, "by": {"bea"}, "reason": {"the network moves"}}
	if code, to, body := r.post("/control", form); code != http.StatusSeeOther || to != "/provider/fmp" {
		t.Fatal(code, to, words(body))
	}
	r.has("/", "paused", "by bea: the network moves")
	// Every view tells it, and what ends it.
	for _, v := range []string{"/agents", "/review", "/letters", "/events", "/find?q=x", "/nowhere", "/provider/fmp"} {
		r.has(v, "fmp is paused until", "by bea: the network moves. Resume…")
	}
	if _, body, _ := r.get("/"); strings.Contains(words(body), "Stop everything") || !strings.Contains(words(body), "Resume all…") {
		t.Errorf("everything is paused: %s", words(body))
	}
	if _, body, _ := r.get("/provider/fmp"); strings.Contains(words(body), "Pause…") {
		t.Errorf("it is paused: %s", words(body))
	}
	r.store(letter("alice", "q-1", "timeout").DeadLetter())
	r.stored()
	r.has("/waiting?agent=alice", "1 parked or waiting for a retry", "Nothing waits in the queues for alice: what waits is below", "held paused by bea: the network moves until", "alice/q-1")
	for name, form := range map[string]url.Values{
		"no reason":         {"do": {"pause"}, "provider": {"fmp"}, "for": {"1h"}, "by": {"bea"}},
		"no time":           {"do": {"pause"}, "provider": {"fmp"}, "by": {"bea"}, "reason": {"x"}},
		"a typing error":    {"do": {"pause"}, "provider": {"fpm"}, "for": {"1h"}, "by": {"bea"}, "reason": {"x"}},
		"nothing":           {"do": {"pause"}, "for": {"1h"}, "by": {"bea"}, "reason": {"x"}},
		"a limit of 0":      {"do": {"limit"}, "provider": {"fmp"}, "limits": {"0/min"}, "by": {"bea"}, "reason": {"x"}},
		"a served provider": {"do": {"retire"}, "provider": {"fmp"}, "by": {"bea"}, "reason": {"x"}},
	} {
		if code, _, _ := r.post("/control", form); code != http.StatusBadRequest {
			t.Errorf("%s: %d", name, code)
		}
	}
	for _, form := range []url.Values{
		{"do": {"limit"}, "provider": {"fmp"}, "limits": {"30/min"}, "for": {"2h"}, "by": {"bea"}, "reason": {"429s"}},
		{"do": {"resume"}, "provider": {"fmp"}, "by": {"bea"}, "reason": {"it has moved"}},
	} {
		if code, _, body := r.post("/control", form); code != http.StatusSeeOther {
			t.Fatal(code, words(body))
		}
	}
	r.has("/provider/fmp", "limited to 30/min by bea until", ": 429s", "open for calls")
	r.has("/control?do=limit&provider=fmp", "In force now: fmp 30/min, by bea until", "default gives the workers' own back")
	r.has("/", "limited to 30/min by bea until")
	if _, body, _ := r.get("/agents"); strings.Contains(words(body), "paused") {
		t.Error("a pause that has ended is still told")
	}
	r.has("/audit", "resume", "it has moved", "limit", "to 30/min until", "pause")
	r.has("/events", "control", "the network moves")
}
