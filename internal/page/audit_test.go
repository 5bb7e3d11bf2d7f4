package page_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/operate"
)

// All that one command did is one line that unfolds, whatever else was done
// before is still in sight; each can be looked at alone.
func TestTheAuditFoldsWhatOneActDid(t *testing.T) {
	r := newRig(t, "")
	act := func(run, by, reason string, a operate.Act) {
		t.Helper()
		if err := operate.RecordAct(t.Context(), r.JS, operate.Signature{By: by, Reason: reason, Run: run}, a); err != nil {
			t.Fatal(err)
		}
	}
	until := time.Now().Add(time.Hour)
	act("page-1", "olga", "the network moves", operate.Act{Action: operate.ActPause, Provider: "fmp", Until: until})
	act("page-1", "olga", "the network moves", operate.Act{Action: operate.ActPause, Provider: "polygon", Until: until})
	for n := range 152 {
		act("page-2", "olga", "the job was stopped", operate.Act{Action: operate.ActCancel, Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint("q-", n), Generation: 1})
	}
	act("page-2", "olga", "the job was stopped", operate.Act{Action: operate.ActCancel, Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-7", Generation: 1, Outcome: operate.FateTaken})
	act("page-3", "bea", "another", operate.Act{Action: operate.ActCancel, Provider: "fmp", Operation: "quote", Agent: "bob", ID: "b-1", Generation: 1})
	body := r.has("/audit", "152 requests of alice, fmp", "1 of them not done after all", "bob/b-1", "polygon, fmp", "the network moves")
	tree := parse(t, body)
	if n := strings.Count(body, "<tr>"); n != 1+3 {
		t.Errorf("%d rows", n)
	}
	if find(tree, "a", "href", "/audit?run=page-2") == nil || find(tree, "a", "href", "/provider/fmp") == nil {
		t.Error("it cannot be looked at one by one")
	}
	if clock := until.Add(-time.Hour).UTC().Format("15:04:"); !strings.Contains(words(body), clock) && !strings.Contains(words(body), time.Now().UTC().Format("15:04:")) {
		t.Errorf("no clock time: %s", words(body))
	}
	// No pause is in force: neither is "until in 59m". (An hour before midnight it is
	// until tomorrow, and just before it may have been.)
	over := func(layout string) bool {
		return strings.Contains(words(body), "was to last until "+until.UTC().Format(layout)+"; it is over")
	}
	if text := words(body); !over("15:04:05Z") && !over("2006-01-02 15:04:05Z") || strings.Contains(text, "( in ") {
		t.Errorf("%s", text)
	}
	one := r.has("/audit?run=page-2", "alice/q-151", "Older ones")
	if n := strings.Count(one, "<tr>"); n != 1+100 {
		t.Errorf("%d rows of one act", n)
	}
	r.has("/audit?by=bea", "bob/b-1")
	if body := r.has("/audit?action=pause&provider=polygon", "the network moves"); strings.Contains(body, "alice/") {
		t.Error("the filter is of no effect")
	}
	// One in force says until when; once resumed it does not.
	form := url.Values{"do": {"pause"}, "provider": {"fmp"}, "for": {"1h"}, "by": {"bea"}, "reason": {"again"}}
	if _, _, body := r.post("/control", form); body != "" && strings.Contains(body, "wrong") {
		t.Fatal(words(body))
	}
	r.has("/audit?by=bea", "again", "( in 59m")
	if err := fleet.Resume(t.Context(), r.KV, "fmp"); err != nil {
		t.Fatal(err)
	}
	r.has("/audit?by=bea&action=pause", "it is over")
}
