package page_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/html"
)

var views = []string{"/", "/provider/fmp", "/waiting", "/letters", "/review", "/agents", "/audit", "/events", "/acts", "/find?q=x", "/words", "/control?do=pause&all=1&for=1h", "/request/fmp/quote/alice/q-1"}

// Every view answers on an empty fleet and on a full one, says what is missing
// and what to do, and loads nothing from elsewhere.
func TestEveryViewStandsAlone(t *testing.T) {
	r := newRig(t, "")
	for _, v := range views {
		r.sound(v)
	}
	r.has("/", "Not well", "no replayer", "cure replayer run", "no limit used yet", "quota not known", "No worker has a key for polygon POLYGON_API_KEY")
	r.has("/letters", "No letter waits: nothing is parked, and nothing waits for a retry.")
	r.has("/review", "Nothing waits for a person.")
	r.has("/audit", "Nobody has done anything yet.")
	r.has("/agents", "Nobody has used anything in this time.")
	r.store(letter("alice", "q-1", "HTTP 503 from upstream").DeadLetter())
	item := letter("bob", "q-2", "gone")
	r.store(item.ReviewItem())
	m := nats.NewMsg(wire.UsageSubject("fmp", "alice", time.Now(), "calls"))
	m.Header.Set("Nats-Incr", "+1234")
	r.store(m)
	r.stored()
	for _, v := range views {
		r.sound(v)
	}
	r.has("/letters", "alice/q-1", "HTTP # from upstream", "only these")
	r.has("/request/fmp/quote/alice/q-1", "Dead letter, waiting", "HTTP 503 from upstream", "4 , of them 4 failures", "none yet", `{"params":{"symbol":"AAPL"}}`, "Replay now…")
	r.has("/review", "bob/q-2", "Requeue 1…", "Discard 1…")
	r.has("/agents", "alice", "1234")
	r.has("/waiting?agent=alice", "Waiting 1 ", "0 in the queues, 1 parked or waiting for a retry", "what waits is below", "alice/q-1", "due at")
	r.has("/waiting?agent=bob", "Waiting 0 ", "1 waits for a person", "Nothing matches.", "1 request waits for a person in Review")
	r.has("/waiting", "Waiting 1 ", "1 waits for a person")
	r.has("/letters?agent=bob", "Nothing matches.", "1 request waits for a person in Review")
	r.has("/", "most for alice , 1234", "1 calls"[:1])
	for _, v := range []string{"/nowhere", "/provider/nobody", "/acts/none", "/request/fmp/quote/alice/none"} {
		if code, _, _ := r.get(v); code != http.StatusNotFound {
			t.Errorf("%s: %d", v, code)
		}
	}
	for _, v := range []string{"/letters?since=never", "/letters?provider=A%20B", "/letters?http=x", "/agents?since=soon", "/audit?provider=*", "/agents?agent=%3E"} {
		if code, _, _ := r.get(v); code != http.StatusBadRequest {
			t.Errorf("%s: %d", v, code)
		}
	}
}

// sound checks a view's status, headers and tree.
func (r *rig) sound(path string) {
	r.t.Helper()
	answer, err := r.client.Get(r.URL + path)
	if err != nil {
		r.t.Fatal(err)
	}
	policy := answer.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
		r.t.Errorf("%s: policy %q", path, policy)
	}
	code, body, tree := r.read(answer)
	if code != http.StatusOK && path != "/request/fmp/quote/alice/q-1" {
		r.t.Errorf("%s: %d %s", path, code, words(body))
	}
	title, labels := false, 0
	elements(tree, func(n *html.Node) {
		if n.Type != html.ElementNode {
			return
		}
		title = title || n.Data == "h1"
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				r.t.Errorf("%s: <%s %s=%q> stands against the policy", path, n.Data, a.Key, a.Val)
			}
			if (a.Key == "href" || a.Key == "src" || a.Key == "action") && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "?") && !strings.HasPrefix(a.Val, "#") {
				r.t.Errorf("%s: %s leads elsewhere: %q", path, n.Data, a.Val)
			}
		}
		if (n.Data == "script" || n.Data == "style") && n.FirstChild != nil {
			r.t.Errorf("%s: a %s within the text", path, n.Data)
		}
		labels++
	})
	if !title {
		r.t.Errorf("%s has no h1", path)
	}
}

// What agents and providers send is text: no element, no attribute of theirs
// gets into any view, and what a screen would obey is shown.
func TestNothingThatWasSentIsMarkup(t *testing.T) {
	r := newRig(t, "")
	const evil = `<script>alert(1)</script><img src=x onerror=alert(2)>"'><svg onload=alert(3)>` + "\u202egpj\x1b[2J"
	for n, stream := range []func(dlq.Letter) *nats.Msg{dlq.Letter.DeadLetter, dlq.Letter.ReviewItem} {
		l := letter("alice", fmt.Sprint("evil-", n), evil)
		l.Body = []byte(evil)
		l.Code = fetchworker.Code(`"><b>`)
		l.Worker = evil
		l.Record(dlq.Attempt{At: time.Now(), Class: `<i>`, Error: evil})
		r.store(stream(l))
	}
	r.stored()
	if err := operate.RecordAct(t.Context(), r.JS, operate.Signature{By: evil, Reason: evil, NATSUser: "<b>"}, operate.Act{Action: "replay", Provider: "fmp"}); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Pause(t.Context(), r.KV, "fmp", time.Now().Add(time.Hour), evil, evil); err != nil {
		t.Fatal(err)
	}
	r.has("/letters", "script", "only these")
	r.has("/review", "script", "only these")
	for _, v := range append(views, "/request/fmp/quote/alice/evil-0", "/request/fmp/quote/alice/evil-1", "/find?q="+url.QueryEscape(evil),
		"/letters?error="+url.QueryEscape(evil), "/waiting?agent=alice", "/provider/"+url.PathEscape(evil)) {
		_, body, tree := r.get(v)
		elements(tree, func(n *html.Node) {
			if n.Type != html.ElementNode {
				return
			}
			switch n.Data {
			case "img", "i", "iframe", "object":
				t.Errorf("%s has a <%s>", v, n.Data)
			case "script":
				if len(n.Attr) == 0 || n.Attr[0].Val != "/live.js" {
					t.Errorf("%s has a script of somebody else's", v)
				}
			}
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") {
					t.Errorf("%s has %s=%q", v, a.Key, a.Val)
				}
			}
		})
		if strings.ContainsAny(body, "\x1b\u202e") {
			// What a filter holds is given back in its field, as it was written.
			if !strings.Contains(v, "error=") {
				t.Errorf("%s has what a screen obeys", v)
			}
		}
	}
}
