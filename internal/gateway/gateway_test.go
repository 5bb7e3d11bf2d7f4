package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/gateway"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// rig is a server with the topology, a worker that answers as a test says, and
// a gateway in front.
type rig struct {
	t    *testing.T
	b    *brokertest.Broker
	url  string
	http *http.Client
	nc   *nats.Conn // the gateway's
	stop func()

	mu     sync.Mutex
	asked  []fetchworker.Request
	answer func(fetchworker.Request) []fetchworker.Answer
	sheets map[string]fetchworker.Catalogue
}

func newRig(t *testing.T, edit func(*gateway.Config)) *rig {
	t.Helper()
	r := &rig{t: t, b: brokertest.Start(t), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}}
	r.sheets = map[string]fetchworker.Catalogue{"fmp": {Provider: "fmp", Configured: true, Operations: []fetchworker.CatalogueOperation{
		{Name: "quote", Path: "/quote/{symbol}", Format: "json", Fresh: fetchworker.Duration(time.Minute), Params: json.RawMessage(`{"type":"object","properties":{"symbol":{"type":"string","description":"a symbol such as AAPL"}},"required":["symbol"],"additionalProperties":false}`)},
		{Name: "history", Path: "/history/{symbol}", Format: "json", Params: json.RawMessage(`{"type":"object","properties":{"symbol":{"type":"string"},"limit":{"type":["integer","string"]}},"required":["symbol"]}`)},
	}, Now: &fetchworker.Standing{At: time.Now(), Workers: 1, Limits: []fetchworker.WindowLeft{{Calls: 300, Per: fetchworker.Duration(time.Minute), Left: 298}}}}}
	r.serve()
	c := gateway.Config{NC: r.b.Connect(t), Logger: zap.NewNop(), Version: "test"}
	if edit != nil {
		edit(&c)
	}
	g, err := gateway.New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + l.Addr
	r.nc = c.NC
	r.stop = sync.OnceFunc(func() {
		r.http.CloseIdleConnections()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		g.Close()
		c.NC.Close()
	})
	t.Cleanup(r.stop)
	return r
}

// serve answers requests, and questions for the catalogue.
func (r *rig) serve() {
	t := r.t
	consumer, err := r.b.JS.CreateConsumer(t.Context(), fetchworker.StreamRequests, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := consumer.Consume(r.take)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		consuming.Stop()
		<-consuming.Closed()
	})
	service, err := micro.AddService(r.b.NC, micro.Config{Name: "fetchworker", Version: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	err = service.AddEndpoint("catalog", micro.HandlerFunc(func(m micro.Request) {
		name := m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]
		r.mu.Lock()
		defer r.mu.Unlock()
		if name == "*" {
			var names []string
			for name := range r.sheets {
				names = append(names, name)
			}
			_ = m.RespondJSON(map[string]any{"providers": names})
			return
		}
		_ = m.RespondJSON(r.sheets[name])
	}), micro.WithEndpointSubject("fetch.catalog.*"))
	if err != nil {
		t.Fatal(err)
	}
	err = service.AddEndpoint("cancel", micro.HandlerFunc(func(m micro.Request) { _ = m.Respond([]byte(`{"cancelled":1,"final":0}`)) }), micro.WithEndpointSubject("fetch.cancel.*.*"))
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) take(m jetstream.Msg) {
	address, err := wire.ParseSubject(m.Subject())
	if err != nil {
		r.t.Error(err)
		return
	}
	request, err := fetchworker.DecodeRequest(m.Data())
	if err != nil {
		r.t.Errorf("%s: %v", m.Data(), err)
	}
	request.Provider, request.Operation, request.Agent, request.Lane = address.Provider, address.Operation, address.Agent, address.Lane
	r.mu.Lock()
	r.asked = append(r.asked, request)
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		answer = good
	}
	for _, a := range answer(request) {
		a.Identity, a.Digest = request.Identity(), fetchworker.RequestDigest(request.Operation, request.Params)
		r.store(a)
	}
	if err := m.Ack(); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) store(a fetchworker.Answer) {
	if a.Generation == 0 {
		a.Generation = 1
	}
	if _, err := r.b.JS.PublishMsg(context.Background(), a.Encode()); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) says(answer func(fetchworker.Request) []fetchworker.Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *rig) questions() []fetchworker.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

const aQuote = `[{"symbol": "AAPL", "price": 191.31}]` + "\n"

func good(fetchworker.Request) []fetchworker.Answer {
	return []fetchworker.Answer{{
		Status: fetchworker.StatusOK, Final: true, Source: fetchworker.SourceOrigin, HTTPStatus: 200, Calls: 1,
		FetchedAt: time.Now(), Latency: 12 * time.Millisecond, ContentType: "application/json", Body: []byte(aQuote),
	}}
}

func waits(r fetchworker.Request) []fetchworker.Answer {
	p := fetchworker.Waiting(r.Identity(), fetchworker.ReasonCircuitOpen, "", time.Now().Add(40*time.Second))
	return []fetchworker.Answer{{Status: fetchworker.StatusWaiting, Problem: &p}}
}

func silence(fetchworker.Request) []fetchworker.Answer { return nil }

// said is a response with its body read.
type said struct {
	*http.Response
	body string
}

func (s said) problem(t *testing.T) fetchworker.Problem {
	t.Helper()
	var p fetchworker.Problem
	if err := json.Unmarshal([]byte(s.body), &p); err != nil || s.Header.Get("Content-Type") != fetchworker.ProblemType || p.Status != s.StatusCode || p.Title == "" {
		t.Errorf("%d %s is no problem: %s", s.StatusCode, s.Header.Get("Content-Type"), s.body)
	}
	return p
}

// do makes a request; headers are name and value in turn.
func (r *rig) do(method, path, body string, headers ...string) said {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return said{res, string(text)}
}

func (r *rig) get(path string, headers ...string) said {
	r.t.Helper()
	return r.do(http.MethodGet, path, "", headers...)
}

func (r *rig) post(path, body string, headers ...string) said {
	r.t.Helper()
	return r.do(http.MethodPost, path, body, headers...)
}

func TestAPersonWithCurl(t *testing.T) {
	r := newRig(t, nil)
	if home := r.get("/"); home.StatusCode != http.StatusOK || !strings.Contains(home.body, "curl '"+strings.TrimPrefix(r.url, "http://")+"/v1/fmp/quote?symbol=AAPL'") {
		t.Errorf("%d %s", home.StatusCode, home.body)
	}
	s := r.get("/v1/fmp/quote?symbol=AAPL")
	h := s.Header
	if s.StatusCode != http.StatusOK || s.body != aQuote || h.Get("Content-Type") != "application/json" || h.Get("Fetch-Source") != "origin" ||
		h.Get("Fetch-Status") != "ok" || h.Get("Fetch-Final") != "true" || h.Get("Age") != "0" || h.Get("Cache-Control") != "private, max-age=60" {
		t.Errorf("%d %v %s", s.StatusCode, h, s.body)
	}
	if tag := h.Get("ETag"); tag != `"`+h.Get("Fetch-Sha256")+`"` || len(tag) != 66 {
		t.Error(tag)
	}
	q := r.questions()[0]
	if q.Agent != "http" || string(q.Params) != `{"symbol":"AAPL"}` || q.Lane != fetchworker.LaneInteractive || q.ID != h.Get("Fetch-Request-Id") {
		t.Errorf("%+v", q)
	}
	again := r.get("/v1/requests/fmp/quote/" + q.ID)
	if again.StatusCode != http.StatusOK || again.body != aQuote {
		t.Errorf("%d %s", again.StatusCode, again.body)
	}
	same := r.get("/v1/requests/fmp/quote/"+q.ID, "If-None-Match", `"x", W/`+h.Get("ETag"))
	if same.StatusCode != http.StatusNotModified || same.body != "" {
		t.Errorf("%d %s", same.StatusCode, same.body)
	}
	head := r.do(http.MethodHead, "/v1/requests/fmp/quote/"+q.ID, "")
	if head.StatusCode != http.StatusOK || head.body != "" || head.ContentLength != int64(len(aQuote)) {
		t.Errorf("%d %d", head.StatusCode, head.ContentLength)
	}
	if len(r.questions()) != 1 {
		t.Error("reading an answer asks again")
	}
}

func TestAProgramSaysEverything(t *testing.T) {
	r := newRig(t, nil)
	s := r.post("/v1/fmp/quote", `{"params":{"symbol":"AAPL","limit":5,"x":null},"max_age":"5s","max_stale":"1h","ttl":"10m","use":["research"]}`,
		"Idempotency-Key", `"q-17"`, "Fetch-Lane", "batch", "Fetch-Agent", "alice", "Prefer", "wait=20")
	if s.StatusCode != http.StatusOK || s.Header.Get("Cache-Control") != "private, max-age=5" || s.Header.Get("Preference-Applied") != "wait=20" {
		t.Errorf("%d %v %s", s.StatusCode, s.Header, s.body)
	}
	q := r.questions()[0]
	if q.ID != "q-17" || q.Lane != fetchworker.LaneBatch || q.Agent != "alice" || time.Duration(*q.MaxAge) != 5*time.Second || time.Duration(*q.MaxStale) != time.Hour || time.Duration(q.TTL) != 10*time.Minute || q.Use[0] != "research" {
		t.Errorf("%+v", q)
	}
	s = r.get("/v1/fmp/quote?symbol=A&symbol=B", "Cache-Control", "no-cache, max-stale=60", "Prefer", "wait=9999999")
	if got := s.Header.Get("Preference-Applied"); got != "wait=120" {
		t.Errorf("it would wait %q", got)
	}
	q = r.questions()[1]
	if string(q.Params) != `{"symbol":["A","B"]}` || *q.MaxAge != 0 || time.Duration(*q.MaxStale) != time.Minute || s.Header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("%+v %s", q, s.Header)
	}
}

func TestFiftyOfOneKeyAreOneRequest(t *testing.T) {
	r := newRig(t, nil)
	r.says(func(q fetchworker.Request) []fetchworker.Answer {
		time.Sleep(100 * time.Millisecond)
		return good(q)
	})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if s := r.post("/v1/fmp/quote", `{"params":{"symbol":"AAPL"}}`, "Idempotency-Key", "one"); s.StatusCode != http.StatusOK || s.body != aQuote {
				t.Errorf("%d %s", s.StatusCode, s.body)
			}
		})
	}
	all.Wait()
	if n := len(r.questions()); n != 1 {
		t.Errorf("%d requests", n)
	}
	s := r.post("/v1/fmp/quote", `{"params":{"symbol":"MSFT"}}`, "Idempotency-Key", "one")
	if s.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(s.problem(t).Type, "id_reused") {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
}

func TestWhatIsNotFinalInTimeIsAccepted(t *testing.T) {
	r := newRig(t, nil)
	r.says(waits)
	s := r.post("/v1/fmp/quote", `{"params":{"symbol":"AAPL"}}`, "Prefer", "wait=1", "Idempotency-Key", "q-1")
	p := s.problem(t)
	if s.StatusCode != http.StatusAccepted || s.Header.Get("Location") != "/v1/requests/fmp/quote/q-1" || p.Reason() != fetchworker.ReasonCircuitOpen || s.Header.Get("Fetch-Reason") != "circuit_open" {
		t.Errorf("%d %v %s", s.StatusCode, s.Header, s.body)
	}
	if again := s.Header.Get("Retry-After"); again != "39" && again != "40" {
		t.Errorf("Retry-After: %s", again)
	}
	done := make(chan said, 1)
	go func() { done <- r.get(s.Header.Get("Location"), "Prefer", "wait=20") }()
	time.Sleep(50 * time.Millisecond)
	a := good(fetchworker.Request{})[0]
	a.Identity = fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "http", ID: "q-1"}
	r.store(a)
	if s := <-done; s.StatusCode != http.StatusOK || s.body != aQuote {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
}

func TestNobodyWaitsWhoWouldNot(t *testing.T) {
	r := newRig(t, nil)
	r.says(silence)
	r.http.Timeout = 20 * time.Second // whoever waits does so for thirty
	for _, prefer := range []string{"respond-async", "wait=0", "handling=lenient, Respond-Async"} {
		s := r.post("/v1/fmp/quote", `{"params":{"symbol":"AAPL"}}`, "Prefer", prefer)
		if p := s.problem(t); s.StatusCode != http.StatusAccepted || p.Type != "urn:fetch:waiting:queued" || s.Header.Get("Retry-After") != "2" {
			t.Errorf("%s: %d %v %s", prefer, s.StatusCode, s.Header, s.body)
		}
		// It is known here, though nothing is stored yet.
		if s := r.get(s.Header.Get("Location")); s.StatusCode != http.StatusAccepted {
			t.Errorf("%d %s", s.StatusCode, s.body)
		}
	}
	s := r.get("/v1/requests/fmp/quote/never-asked")
	if p := s.problem(t); s.StatusCode != http.StatusNotFound || p.Type != "urn:fetch:error:no_answer" {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
}

func TestAFailureHasItsStatus(t *testing.T) {
	r := newRig(t, nil)
	for code, status := range map[fetchworker.Code]int{fetchworker.CodeNotFound: 404, fetchworker.CodeRightsViolation: 403, fetchworker.CodeNotEntitled: 402, fetchworker.CodeRetriesExhausted: 502, fetchworker.CodeBudgetExhausted: 429} {
		r.says(func(q fetchworker.Request) []fetchworker.Answer {
			p := fetchworker.Failure(q.Identity(), code, "no <script>")
			if code == fetchworker.CodeBudgetExhausted {
				p.RetryAt = time.Now().Add(time.Hour)
			}
			return []fetchworker.Answer{{Status: fetchworker.StatusFailed, Final: true, Problem: &p}}
		})
		s := r.get("/v1/fmp/quote?symbol=AAPL")
		if p := s.problem(t); s.StatusCode != status || p.Code() != code || s.Header.Get("Fetch-Status") != "failed" || s.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v %s", code, s.StatusCode, s.Header, s.body)
		}
		if code == fetchworker.CodeBudgetExhausted && s.Header.Get("Retry-After") != "3600" {
			t.Error(s.Header)
		}
	}
}

func TestALargeBodyComesWhole(t *testing.T) {
	r := newRig(t, nil)
	body := strings.Repeat(`{"row": 1234567890},`, 3<<20/20)
	claim := r.keep("http", body)
	r.says(func(fetchworker.Request) []fetchworker.Answer {
		return []fetchworker.Answer{{Status: fetchworker.StatusOK, Final: true, Source: fetchworker.SourceOrigin, FetchedAt: time.Now(), ContentType: "application/json", SHA256: claim.SHA256, Claim: claim}}
	})
	if s := r.get("/v1/fmp/history?symbol=AAPL"); s.StatusCode != http.StatusOK || s.body != body || s.ContentLength != int64(len(body)) {
		t.Errorf("%d, %d bytes", s.StatusCode, len(s.body))
	}
	claim.SHA256 = strings.Repeat("0", 64)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/fmp/history?symbol=B", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if text, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a body that is another came whole: %d bytes", len(text))
	}
}

func TestCancelAndWhatCanBeAsked(t *testing.T) {
	r := newRig(t, nil)
	if s := r.do(http.MethodDelete, "/v1/requests/fmp/quote/q-1", ""); s.StatusCode != http.StatusOK || strings.TrimSpace(s.body) != `{"cancelled":1,"final":0}` {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
	s := r.get("/v1/providers")
	if s.StatusCode != http.StatusOK || !strings.Contains(s.body, `"name":"quote"`) || !strings.Contains(s.body, `"description":"a symbol such as AAPL"`) || strings.Contains(s.body, `"left"`) {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
	s = r.get("/v1/limits")
	if s.StatusCode != http.StatusOK || !strings.Contains(s.body, `"calls":300,"per":"1m0s","left":298`) {
		t.Errorf("%d %s", s.StatusCode, s.body)
	}
}

// Whoever asks within a trace has the request in it, over HTTP and as a tool.
func TestATraceGoesOn(t *testing.T) {
	r := newRig(t, nil)
	traces := make(chan string, 4)
	patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := r.b.NC.Subscribe("fetch.request.>", func(m *nats.Msg) { traces <- m.Header.Get("traceparent") })
	if err != nil {
		t.Fatal(err)
	}
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	r.get("/v1/fmp/quote?symbol=AAPL", "traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	m := r.model("Traceparent", "00-"+trace+"-00f067aa0ba902b7-01", nil)
	m.call("fetch", args{"provider": "fmp", "operation": "quote", "params": args{"symbol": "AAPL"}}, false)
	for range 2 {
		select {
		case got := <-traces:
			if !strings.Contains(got, trace) {
				t.Errorf("traceparent %q", got)
			}
		case <-patience.Done():
			t.Fatal("no request")
		}
	}
}
