package page_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/page"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"golang.org/x/net/html"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// rig is a fleet's streams, and a page on them.
type rig struct {
	t *testing.T
	*brokertest.Broker
	*httptest.Server
	client *http.Client
	page   *page.Server
}

func newRig(t *testing.T, token string) *rig {
	t.Helper()
	b := brokertest.Start(t)
	if err := broker.ServeProvider(t.Context(), b.JS, "fmp", broker.Held(120)); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Beat(t.Context(), b.JS, fleet.Worker{Name: "w-1", Providers: []string{"fmp"}, Keyless: map[string]string{"polygon": "POLYGON_API_KEY"}}); err != nil {
		t.Fatal(err)
	}
	desk, err := operate.Open(t.Context(), b.NC)
	if err != nil {
		t.Fatal(err)
	}
	f, err := desk.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := page.New(page.Config{Desk: desk, Fleet: f, By: "ann", Token: token, Log: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, Broker: b, Server: httptest.NewServer(s.Handler()), page: s}
	r.client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		r.CloseClientConnections()
		r.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		f.Close()
	})
	return r
}

func letter(agent, id, problem string) dlq.Letter {
	now := time.Now().UTC()
	return dlq.Letter{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: agent, ID: id},
		Lane:     fetchworker.LaneInteractive, Body: []byte(`{"params":{"symbol":"AAPL"}}`),
		Generation: 1, Calls: 4, Failures: 4, Class: wire.ClassTransient, Error: problem, HTTPStatus: 503,
		RequestedAt: now.Add(-time.Hour), FailedAt: now.Add(-time.Minute), FirstFailedAt: now.Add(-time.Hour), NotBefore: now.Add(time.Hour),
	}
}

func (r *rig) store(m *nats.Msg) {
	r.t.Helper()
	if _, err := r.JS.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) stored() { <-r.JS.PublishAsyncComplete() }

// get is a page's status, its text and its tree.
func (r *rig) get(path string) (int, string, *html.Node) {
	r.t.Helper()
	answer, err := r.client.Get(r.URL + path)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.read(answer)
}

func (r *rig) read(answer *http.Response) (int, string, *html.Node) {
	r.t.Helper()
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	tree, err := html.Parse(strings.NewReader(string(body)))
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, string(body), tree
}

// post sends a form as the page itself would, and returns where it leads.
func (r *rig) post(path string, form url.Values, headers ...string) (int, string, string) {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	answer, err := r.client.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	to := answer.Header.Get("Location")
	code, body, _ := r.read(answer)
	return code, to, body
}

// has waits until a view says something.
func (r *rig) has(path string, texts ...string) string {
	r.t.Helper()
	var body string
	for began := time.Now(); time.Since(began) < 40*time.Second; time.Sleep(50 * time.Millisecond) {
		var code int
		if code, body, _ = r.get(path); code == http.StatusInternalServerError {
			r.t.Fatalf("%s: %s", path, body)
		}
		missing := false
		for _, text := range texts {
			missing = missing || !strings.Contains(words(body), text)
		}
		if !missing {
			return body
		}
	}
	r.t.Fatalf("%s does not say %q:\n%s", path, texts, words(body))
	return ""
}

// words are a view as it reads: its text without markup.
func words(body string) string {
	z := html.NewTokenizer(strings.NewReader(body))
	var b strings.Builder
	for {
		switch z.Next() {
		case html.ErrorToken:
			return strings.Join(strings.Fields(strings.ReplaceAll(b.String(), "\u202f", "")), " ")
		case html.TextToken:
			b.WriteString(string(z.Text()) + " ")
		case html.StartTagToken, html.EndTagToken, html.SelfClosingTagToken, html.CommentToken, html.DoctypeToken:
		}
	}
}

// elements yields all of a tree.
func elements(n *html.Node, see func(*html.Node)) {
	see(n)
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		elements(c, see)
	}
}

var views = []string{"/", "/provider/fmp", "/waiting", "/letters", "/review", "/agents", "/audit", "/events", "/acts", "/find?q=x", "/control?do=pause&all=1&for=1h", "/request/fmp/quote/alice/q-1"}

// Every view answers on an empty fleet and on a full one, says what is missing
// and what to do, and loads nothing from elsewhere.
func TestEveryViewStandsAlone(t *testing.T) {
	r := newRig(t, "")
	for _, v := range views {
		r.sound(v)
	}
	r.has("/", "Not well", "no replayer", "cure replayer run", "no limit used yet", "quota not known", "No worker has a key for polygon POLYGON_API_KEY")
	r.has("/letters", "No letter waits: nothing has failed.")
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
	r.has("/review", "bob/q-2", "Requeue…", "Discard…")
	r.has("/agents", "alice", "1234")
	r.has("/waiting?agent=alice", "alice/q-1", "until")
	r.has("/find?q=alice/q-1", "alice/q-1")
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

func (r *rig) count(stream string) int {
	r.t.Helper()
	s, err := r.JS.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}

// Providers are paused, all at once, limited and resumed, with a reason.
func TestProvidersAreStoppedAndLetGo(t *testing.T) {
	r := newRig(t, "")
	r.has("/control?do=pause&all=1&for=1h", "Pause everything", "fmp", "Within a second nobody calls any more")
	form := url.Values{"do": {"pause"}, "provider": {"fmp"}, "for": {"1h"}, "by": {"bea"}, "reason": {"the network moves"}}
	if code, to, body := r.post("/control", form); code != http.StatusSeeOther || to != "/provider/fmp" {
		t.Fatal(code, to, words(body))
	}
	r.has("/", "paused", "by bea: the network moves")
	r.store(letter("alice", "q-1", "timeout").DeadLetter())
	r.stored()
	r.has("/waiting?agent=alice", "held paused by bea until", "alice/q-1")
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
	r.has("/provider/fmp", "changed by an operator to 30/min", "open for calls")
	r.has("/audit", "resume", "it has moved", "limit", "to 30/min until", "pause")
	r.has("/events", "control", "the network moves")
}

// Whoever lacks the token sees nothing and does nothing; other sites, and names
// that point here, neither.
func TestOnlyWhoMayGetsIn(t *testing.T) {
	const token = "a-token-of-twenty-letters"
	r := newRig(t, token)
	pause := url.Values{"do": {"pause"}, "provider": {"fmp"}, "for": {"1h"}, "by": {"eve"}, "reason": {"x"}}
	for _, v := range views {
		if code, body, _ := r.get(v); code != http.StatusSeeOther || strings.Contains(body, "fmp") {
			t.Errorf("%s without the token: %d %s", v, code, body)
		}
	}
	if code, _, _ := r.post("/control", pause); code != http.StatusUnauthorized {
		t.Errorf("an act without the token: %d", code)
	}
	if code, to, _ := r.post("/login", url.Values{"token": {"guess"}}); code != http.StatusSeeOther || to != "/login?wrong" {
		t.Error(code, to)
	}
	// By the header, as a script does.
	if code, _, _ := r.post("/control", pause, "Authorization", "Bearer "+token); code != http.StatusSeeOther {
		t.Errorf("with the token: %d", code)
	}
	if code, _, _ := r.post("/control", pause, "Authorization", "Bearer "+token[1:]); code != http.StatusUnauthorized {
		t.Errorf("with another token: %d", code)
	}
	// Another site's form carries the browser's cookies, and is refused all the same.
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		{"Sec-Fetch-Site", "", "Origin", "null"},
	} {
		if code, _, _ := r.post("/control", pause, append(headers, "Authorization", "Bearer "+token)...); code != http.StatusForbidden {
			t.Errorf("%v: %d", headers, code)
		}
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL+"/login", strings.NewReader("token="+token))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	cookies := answer.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || strings.Contains(cookies[0].Value, token) {
		t.Fatalf("%+v", cookies)
	}
	q, err = http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+"/letters", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.AddCookie(cookies[0])
	if answer, err = r.client.Do(q); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	_ = answer.Body.Close()
}

// A name of somebody else's that points to this machine opens nothing.
func TestWithoutATokenOnlyThisMachinesNamesOpenIt(t *testing.T) {
	r := newRig(t, "")
	for host, want := range map[string]int{"127.0.0.1:8090": 200, "localhost:8090": 200, "[::1]:8090": 200, "evil.example": 421, "127.0.0.1.evil.example:8090": 421, "10.0.0.5:8090": 421} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Host = host
		answer, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", host, answer.StatusCode, want)
		}
	}
}

// What changes comes by itself.
func TestWhoWatchesSeesChanges(t *testing.T) {
	r := newRig(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/letters", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept", "text/event-stream")
	answer, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if kind := answer.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatal(kind)
	}
	lines := bufio.NewScanner(answer.Body)
	until := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("%q did not come: %v", text, lines.Err())
	}
	until("nothing has failed")
	r.store(letter("alice", "q-1", "boom").DeadLetter())
	until("alice/q-1")
}

// A view is live for longer than its request may take.
func TestALiveViewOutlivesItsRequestsTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.page.Serve(serving, ln) }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ln.Addr().String()+"/letters", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept", "text/event-stream")
	answer, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	began := time.Now()
	for lines := bufio.NewScanner(answer.Body); time.Since(began) < 12*time.Second; {
		if !lines.Scan() || strings.Contains(lines.Text(), "event: still") {
			t.Fatalf("it is live no more after %v: %q %v", time.Since(began), lines.Text(), lines.Err())
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// The first event is the view as it was rendered, to the byte: else a browser
// would put all of it anew, and take away what is focused.
func TestTheFirstEventIsTheViewItself(t *testing.T) {
	r := newRig(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL+"/acts", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept", "text/event-stream")
	answer, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	var event []string
	for lines := bufio.NewScanner(answer.Body); lines.Scan() && lines.Text() != ""; {
		event = append(event, strings.TrimPrefix(lines.Text(), "data: "))
	}
	if _, whole, _ := r.get("/acts"); len(event) == 0 || !strings.Contains(whole, "data-live>"+strings.Join(event, "\n")+"</main>") {
		t.Errorf("the event is not what the view has: %q in\n%s", event, whole)
	}
}
