package gateway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/gateway"
	"fetchworker/internal/gateway/tokens"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/zap"
)

// as is a transport that says who asks.
type as struct {
	http.RoundTripper
	name, value string
}

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(a.name, a.value)
	return a.RoundTripper.RoundTrip(r)
}

// model is a language model's client.
type model struct {
	*mcp.ClientSession
	t *testing.T
}

func (r *rig) model(header, value string, options *mcp.ClientSessionOptions) *model {
	r.t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(r.t.Context(), &mcp.StreamableClientTransport{
		Endpoint: r.url + "/mcp", HTTPClient: &http.Client{Transport: as{r.http.Transport, header, value}}, DisableStandaloneSSE: true,
	}, options)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = session.Close() })
	return &model{session, r.t}
}

// reply is the result of a tool.
type reply struct {
	Handle struct {
		ID string `json:"id"`
	} `json:"handle"`
	Status  string `json:"status"`
	Final   bool   `json:"final"`
	Waiting *struct {
		Reason  string    `json:"reason"`
		RetryAt time.Time `json:"retry_at"`
		Seconds int       `json:"retry_in_seconds"`
	} `json:"waiting"`
	Problem *fetchworker.Problem `json:"problem"`
	Source  string               `json:"source"`
	Age     *int                 `json:"age_seconds"`
	Bytes   int                  `json:"bytes"`
	Rows    string               `json:"rows"`
	Of      int                  `json:"of"`
	Matches *int                 `json:"matches"`
	Body    json.RawMessage      `json:"body"`
	LeftOut string               `json:"left_out"`
	Error   string               `json:"error"`
	raw     string
}

// tokensOf is what JSON costs a model, by the rule of thumb of four bytes a token.
func tokensOf(t *testing.T, v any) int {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return (len(text) + 3) / 4
}

func (m *model) call(name string, arguments any, wrong bool) (out reply) {
	m.t.Helper()
	res, err := m.CallTool(m.t.Context(), &mcp.CallToolParams{Name: name, Arguments: arguments})
	if err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
	if n := tokensOf(m.t, res); n > 8000 {
		m.t.Errorf("%s: a result of %d tokens", name, n)
	}
	structure, err := json.Marshal(res.StructuredContent)
	if err != nil {
		m.t.Fatal(err)
	}
	text, ok := res.Content[0].(*mcp.TextContent)
	if !ok || len(res.Content) != 1 {
		m.t.Fatalf("%+v", res.Content)
	}
	var one, other any
	if json.Unmarshal(structure, &one) != nil || json.Unmarshal([]byte(text.Text), &other) != nil || fmt.Sprint(one) != fmt.Sprint(other) {
		m.t.Errorf("%s: text and structure differ: %s %s", name, text.Text, structure)
	}
	if err := json.Unmarshal(structure, &out); err != nil {
		m.t.Errorf("%s: %v: %s", name, err, structure)
	}
	if out.raw = string(structure); res.IsError != wrong {
		m.t.Errorf("%s: an error: %v: %s", name, res.IsError, structure)
	}
	return out
}

type args = map[string]any

func TestFiveToolsForAnyNumberOfProviders(t *testing.T) {
	r := newRig(t, nil)
	for n := range 99 {
		var operations []fetchworker.CatalogueOperation
		for o := range 20 {
			operations = append(operations, fetchworker.CatalogueOperation{Name: fmt.Sprintf("operation_%d", o), Path: fmt.Sprintf("/v1/things/%d/{id}", o), Params: json.RawMessage(`{"type":"object","properties":{"id":{"type":"string"},"from":{"type":"string"}},"required":["id"]}`)})
		}
		name := fmt.Sprintf("provider-%d", n)
		r.sheets[name] = fetchworker.Catalogue{Provider: name, Configured: n%2 == 0, Operations: operations, Now: &fetchworker.Standing{
			At: time.Now(), Workers: 1, NextAt: time.Now().Add(time.Minute), Limits: []fetchworker.WindowLeft{{Calls: 300, Per: fetchworker.Duration(time.Minute), Left: 298}, {Calls: 5, Per: fetchworker.Duration(time.Second), Left: 5}},
		}}
	}
	m := r.model("Fetch-Agent", "alice", nil)
	list, err := m.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
		if a := tool.Annotations; a == nil || !a.ReadOnlyHint || !a.IdempotentHint || a.OpenWorldHint == nil || *a.OpenWorldHint != (tool.Name == "fetch") {
			t.Errorf("%s: %+v", tool.Name, a)
		}
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "describe_operation fetch limits read_answer search_operations" || list.NextCursor != "" {
		t.Error(got)
	}
	if n := tokensOf(t, list); n > 1500 {
		t.Errorf("the list costs %d tokens", n)
	} else {
		t.Logf("the list costs %d tokens; with the instructions %d", n, n+tokensOf(t, m.InitializeResult()))
	}

	if out := m.call("search_operations", args{"query": "quote of a symbol"}, false); !strings.HasPrefix(out.raw, `{"operations":[{"operation":"quote","params":"symbol*","path":"/quote/{symbol}","provider":"fmp"}`) {
		t.Error(out.raw)
	}
	if out := m.call("search_operations", args{"query": "things", "limit": "50", "provider": nil}, false); !strings.Contains(out.LeftOut, "1930 more") {
		t.Error(out.LeftOut, len(out.raw))
	}
	if out := m.call("search_operations", args{}, false); !strings.Contains(out.raw, `"provider":"fmp"`) || !strings.Contains(out.raw, `"more":`) {
		t.Error(out.raw)
	}
	if out := m.call("search_operations", args{"provider": "fmp"}, false); !strings.Contains(out.raw, `"history"`) {
		t.Error(out.raw)
	}
	m.call("search_operations", args{"provider": "nobody"}, true)
	m.call("search_operations", args{"qery": "quote"}, true)
	if out := m.call("describe_operation", args{"provider": "fmp", "operation": "quote"}, false); !strings.Contains(out.raw, `a symbol such as AAPL`) || !strings.Contains(out.raw, `298 of 300 per 1m0s`) {
		t.Error(out.raw)
	}
	if out := m.call("describe_operation", args{"provider": "fmp", "operation": "quotes"}, true); !strings.Contains(out.Error, "one of quote, history") {
		t.Error(out.raw)
	}
	if out := m.call("limits", nil, false); !strings.Contains(out.raw, `"provider":"fmp"`) {
		t.Error(out.LeftOut, len(out.raw))
	}
	if out := m.call("limits", args{"provider": "provider-7"}, false); !strings.Contains(out.raw, `5 of 5 per 1s`) || !strings.Contains(out.raw, "next_call_at") {
		t.Error(out.raw)
	}
}

func TestAModelAsksAndReadsOn(t *testing.T) {
	r := newRig(t, nil)
	m := r.model("Fetch-Agent", "alice", nil)
	out := m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "AAPL", "limit": nil}, "max_age": "5s", "id": nil}, false)
	if out.Status != "ok" || !out.Final || string(out.Body) != `[{"price":191.31,"symbol":"AAPL"}]` || out.Source != "origin" || out.Age == nil || out.Handle.ID == "" || out.Bytes != len(aQuote) {
		t.Error(out.raw)
	}
	if q := r.questions()[0]; q.Agent != "alice" || time.Duration(*q.MaxAge) != 5*time.Second {
		t.Errorf("%+v", q)
	}
	m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": `{"symbol":"AAPL"}`, "wait": "5"}, false)

	var body strings.Builder
	body.WriteString(`[`)
	for n := range 33_000 {
		if n > 0 {
			body.WriteString(",")
		}
		fmt.Fprintf(&body, `{"date":"row-%05d","open":%d.5,"close":191.31,"volume":123456789,"note":"a \"row\" of the table"}`, n, n)
	}
	body.WriteString(`]`)
	claim := r.keep("alice", body.String())
	r.says(func(fetchworker.Request) []fetchworker.Answer {
		return []fetchworker.Answer{{Status: fetchworker.StatusOK, Final: true, Source: fetchworker.SourceOrigin, FetchedAt: time.Now(), ContentType: "application/json", SHA256: claim.SHA256, Claim: claim, Next: json.RawMessage(`{"page":2}`)}}
	})
	large := m.call("fetch", args{"provider": "fmp", "operation": "history", "params": args{"symbol": "AAPL"}}, false)
	if large.Bytes < 3<<20 || large.Of != 33_000 || !strings.HasPrefix(large.Rows, "0-") || !strings.Contains(large.LeftOut, "read_answer with rows") || !strings.Contains(large.raw, `"next_page_params":{"page":2}`) {
		t.Error(large.Rows, large.LeftOut, large.Bytes)
	}
	asked := len(r.questions())
	handle := args{"provider": "fmp", "operation": "history", "id": large.Handle.ID}
	with := func(name string, value any) args {
		all := maps.Clone(handle)
		all[name] = value
		return all
	}
	out = m.call("read_answer", with("rows", "500-520"), false)
	var rows []struct {
		Date string `json:"date"`
	}
	if err := json.Unmarshal(out.Body, &rows); err != nil || len(rows) != 21 || rows[0].Date != "row-00500" || rows[20].Date != "row-00520" || out.Rows != "500-520" || out.LeftOut != "" {
		t.Error(out.raw)
	}
	// What is left out is told, and following it all is seen.
	seen, reads := 0, 0
	for rows := "29000-29999"; rows != ""; reads++ {
		out = m.call("read_answer", with("rows", rows), false)
		var some []json.RawMessage
		if err := json.Unmarshal(out.Body, &some); err != nil || len(some) == 0 {
			t.Fatal(out.raw)
		}
		seen += len(some)
		_, rows, _ = strings.Cut(out.LeftOut, `rows "`)
		rows, _, _ = strings.Cut(rows, `"`)
	}
	if seen != 1000 || reads < 3 {
		t.Errorf("%d rows in %d reads", seen, reads)
	}
	if out = m.call("read_answer", with("search", "ROW-01234"), false); out.Matches == nil || *out.Matches != 1 || !strings.Contains(string(out.Body), `"row":1234`) {
		t.Error(out.raw)
	}
	if out = m.call("read_answer", with("search", "table"), false); *out.Matches != 33_000 || !strings.Contains(out.LeftOut, "matches from row") {
		t.Error(out.LeftOut)
	}
	if out = m.call("read_answer", with("pointer", "/29999/date"), false); string(out.Body) != `"row-29999"` {
		t.Error(out.raw)
	}
	if out = m.call("read_answer", with("max_tokens", 1000), false); tokensOf(t, out.raw) > 1000 || out.LeftOut == "" {
		t.Error(out.raw)
	}
	for _, bad := range []args{with("rows", "33000"), with("rows", "5-2"), with("rows", "x"), with("pointer", "/33000"), with("pointer", "/0/nothing"), with("pointer", "/0/date/x"), with("id", "nothing"), with("id", "a b"), with("provider", "*")} {
		m.call("read_answer", bad, true)
	}
	if n := len(r.questions()); n != asked {
		t.Errorf("reading made %d requests", n-asked)
	}
	other := r.model("Fetch-Agent", "bob", nil)
	if out = other.call("read_answer", handle, true); !strings.Contains(out.Error, "nothing is stored") {
		t.Error(out.raw)
	}
}

func TestAModelIsToldWhyItWaitsAndWhatItMayNot(t *testing.T) {
	r := newRig(t, nil)
	m := r.model("Fetch-Agent", "alice", nil)
	r.says(waits)
	began := time.Now()
	out := m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "AAPL"}, "wait": 1, "id": "q-1"}, false)
	if out.Status != "waiting" || out.Final || out.Waiting == nil || out.Waiting.Reason != "circuit_open" || out.Waiting.Seconds < 30 || out.Waiting.Seconds > 41 || out.Waiting.RetryAt.IsZero() || time.Since(began) > 5*time.Second {
		t.Error(out.raw)
	}
	if out = m.call("read_answer", args{"provider": "fmp", "operation": "quote", "id": "q-1"}, false); out.Status != "waiting" || out.Waiting.Reason != "circuit_open" {
		t.Error(out.raw)
	}
	if out = m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "MSFT"}, "wait": 1, "id": "q-1"}, true); !strings.Contains(out.Error, "used before") {
		t.Error(out.raw)
	}
	r.says(func(fetchworker.Request) []fetchworker.Answer {
		a := good(fetchworker.Request{})[0]
		a.Status, a.Final, a.Source, a.Reason, a.RetryAt, a.FetchedAt = fetchworker.StatusStale, false, fetchworker.SourceCache, fetchworker.ReasonRetry, time.Now().Add(4*time.Second), time.Now().Add(-3*time.Hour)
		return []fetchworker.Answer{a}
	})
	out = m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "AAPL"}, "wait": 1}, false)
	if out.Status != "stale" || out.Final || out.Waiting.Reason != "retry" || *out.Age < 10_000 || len(out.Body) == 0 {
		t.Error(out.raw)
	}
	r.answered("alice", "q-1")
	if out = m.call("read_answer", args{"provider": "fmp", "operation": "quote", "id": "q-1", "wait": 5}, false); out.Status != "ok" {
		t.Error(out.raw)
	}
	r.says(func(q fetchworker.Request) []fetchworker.Answer {
		p := fetchworker.Failure(q.Identity(), fetchworker.CodeRightsViolation, `newsapi forbids "export" to everyone on the developer tier`)
		return []fetchworker.Answer{{Status: fetchworker.StatusFailed, Final: true, Problem: &p}}
	})
	out = m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "AAPL"}, "use": []string{"export"}}, true)
	if out.Problem == nil || out.Problem.Code() != fetchworker.CodeRightsViolation || out.Status != "failed" {
		t.Error(out.raw)
	}
	if q := r.questions(); q[len(q)-1].Use[0] != "export" {
		t.Errorf("%+v", q)
	}
	for _, bad := range []args{{"provider": "fmp"}, {"provider": "F*", "operation": "quote"}, {"provider": "fmp", "operation": "quote", "params": []int{1}}, {"provider": "fmp", "operation": "quote", "max_age": "soon"}, {"provider": "fmp", "operation": "quote", "id": "a b"}, {"provider": "fmp", "operation": "quote", "wait": "long"}} {
		m.call("fetch", bad, true)
	}
}

// An older client of the protocol speaks to it as well, and any call may go to
// any gateway: none has a session.
func TestMCPOfOlderClientsAndWithTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	token, line, err := tokens.New("alice")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := tokens.Load(file, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *gateway.Config) { c.Tokens = known })
	for _, version := range mcp.SupportedProtocolVersions() {
		m := r.model("Authorization", "Bearer "+token, &mcp.ClientSessionOptions{ProtocolVersion: version})
		if out := m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "AAPL"}}, false); out.Status != "ok" {
			t.Errorf("%s: %s", version, out.raw)
		}
		if m.ID() != "" {
			t.Errorf("%s: it has a session", version)
		}
	}
	for _, q := range r.questions() {
		if q.Agent != "alice" {
			t.Errorf("%+v", q)
		}
	}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"limits","arguments":{}}}`
	if s := r.post("/mcp", call, "Accept", "*/*", "Authorization", "Bearer "+token, "Mcp-Protocol-Version", "2025-06-18"); s.StatusCode != http.StatusOK || !strings.Contains(s.body, "calls_left") {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
	if s := r.post("/mcp", call, "Accept", "application/json, text/event-stream"); s.StatusCode != http.StatusUnauthorized {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
	if s := r.post("/mcp", call, "Authorization", "Bearer "+token, "Origin", "https://evil.example.com"); s.StatusCode != http.StatusForbidden {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
	if s := r.get("/mcp", "Authorization", "Bearer "+token); s.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
	for _, bad := range []string{`{`, `[]`, `{"jsonrpc":"2.0","id":1,"method":"nothing"}`, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nothing"}}`, strings.Repeat("[", 50_000), "\xff\xfe"} {
		if s := r.post("/mcp", bad, "Authorization", "Bearer "+token); s.StatusCode >= 500 || s.StatusCode == http.StatusOK && !strings.Contains(s.body, `"error"`) {
			t.Errorf("%.40q: %d %s", bad, s.StatusCode, s.body)
		}
	}
}
