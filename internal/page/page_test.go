package page_test

import (
	"io"
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
	s.LooksUpFor(time.Minute) // however busy the machine is
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

func (r *rig) count(stream string) int {
	r.t.Helper()
	s, err := r.JS.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	return int(s.CachedInfo().State.Msgs)
}
