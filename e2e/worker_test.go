package e2e

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestAWorkerAloneAnswers is what a person does first: one worker that brings
// its own server, a request from any client, a plain subscriber.
func TestAWorkerAloneAnswers(t *testing.T) {
	begin(t)
	a := alone(t)
	a.start()
	live, err := a.nc.SubscribeSync("fetch.result.>")
	if err != nil {
		t.Fatal(err)
	}
	a.publish("alice", `{"id":"q-1","params":{"symbol":"AAPL"}}`)
	m := next(t, live)
	if m.Subject != "fetch.result.fmp.quote.alice.q-1" {
		t.Errorf("answer on %s", m.Subject)
	}
	if string(m.Data) != aQuote {
		t.Errorf("the provider's bytes came as %q", m.Data)
	}
	for name, want := range map[string]string{
		"ce-specversion": "1.0", "ce-type": "fetch.result", "ce-source": "/fetch/fmp/quote", "ce-subject": "q-1",
		"Content-Type": "application/json", "Fetch-Request-Id": "q-1", "Fetch-Status": "ok", "Fetch-Final": "true",
		"Fetch-Review": "", "Fetch-Generation": "1", "Fetch-Source": "origin", "Fetch-Http-Status": "200",
		"Fetch-Calls": "1", "Fetch-Failures": "0", "Fetch-Age-Seconds": "0",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"ce-time", "Fetch-Fetched-At"} {
		if at, err := time.Parse(time.RFC3339, m.Header.Get(name)); err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%s: %q %v", name, m.Header.Get(name), err)
		}
	}
	for _, name := range []string{"ce-id", "Fetch-Latency-Ms"} {
		if m.Header.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
	// Once and not again: the next thing to come is the next answer.
	a.publish("bob", `{"id":"q-2","params":{"symbol":"MSFT"}}`)
	if m := next(t, live); m.Subject != "fetch.result.fmp.quote.bob.q-2" {
		t.Errorf("then came %s", m.Subject)
	}
}

// TestASignalFinishesWhatIsInFlightAndARestartDoesTheRest stops a worker in
// the middle of its work, and starts another on the same directory.
func TestASignalFinishesWhatIsInFlightAndARestartDoesTheRest(t *testing.T) {
	begin(t)
	const requests, inFlight = 20, 4
	a := alone(t)
	a.env["FETCH_CONCURRENCY"] = fmt.Sprint(inFlight)
	a.upstream.SetLatency(time.Second)
	a.start()
	answers := dlqtest.Record(t, a.nc)
	var ids []fetchworker.Identity
	for i := range requests {
		id := fmt.Sprint("q-", i)
		a.publish(fmt.Sprint("agent-", i), fmt.Sprintf(`{"id":%q,"params":{"symbol":"S%d"}}`, id, i))
		ids = append(ids, fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: fmt.Sprint("agent-", i), ID: id})
	}
	until(t, 10*time.Second, "calls are in flight", func() bool { return len(a.upstream.Calls()) >= inFlight })
	a.signal(t, syscall.SIGTERM)
	if code := a.ended(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	called := len(a.upstream.Calls())
	// What it said last may still be on its way to the subscriber.
	until(t, 5*time.Second, fmt.Sprint("all of ", called, " calls are answered before the end"), func() bool {
		answered := 0
		for _, id := range ids {
			answered += len(answers.Answers(id))
		}
		return answered == called
	})
	answers.Stop()
	if called >= requests {
		t.Fatal("nothing was left to do")
	}

	a.start()
	restarted := time.Now()
	for _, id := range ids {
		if got := a.final(id); got.Status != fetchworker.StatusOK || got.Calls != 1 {
			t.Errorf("%s: %s", id, dlqtest.Describe(got))
		}
	}
	if calls := len(a.upstream.Calls()); calls != requests {
		t.Errorf("%d calls for %d requests", calls, requests)
	}
	t.Logf("stopped after %d calls; the rest was answered %v after the restart", called, time.Since(restarted))
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	begin(t)
	a := alone(t)
	a.env["FMP_TIMEOUT_SECONDS"] = "60"
	a.upstream.SetLatency(time.Minute)
	a.start()
	a.publish("alice", `{"params":{"symbol":"AAPL"}}`)
	until(t, 10*time.Second, "a call is in flight", func() bool { return len(a.upstream.Calls()) == 1 })
	a.signal(t, syscall.SIGTERM)
	until(t, 5*time.Second, "the worker drains", func() bool {
		res, err := http.Get(a.http + "/readyz") //nolint:forbidigo // loopback, in a test with a time limit
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusServiceUnavailable
	})
	second := time.Now()
	// Signals that come at the same moment may be taken for one.
	until(t, 2*time.Second, "the end", func() bool {
		a.signal(t, syscall.SIGTERM)
		return a.gone()
	})
	if code := a.ended(t, time.Second); code == 0 {
		t.Error("breaking off is no success")
	}
	t.Logf("ended after %v", time.Since(second))
}

// lone is a worker with a server of its own inside.
type lone struct {
	*process
	t        *testing.T
	upstream *providertest.Server
	env      map[string]string
	nc       *nats.Conn
	js       jetstream.JetStream
	http     string
}

func alone(t *testing.T) *lone {
	t.Helper()
	a := &lone{t: t, upstream: played(t, well(0))}
	a.env = map[string]string{
		"FMP_API_KEY": aKey, "FMP_BASE_URL": a.upstream.URL() + "/api/v3", "FMP_REQUESTS_PER_MINUTE": "0",
		"FETCH_NATS_ADDR": "127.0.0.1:0", "FETCH_HTTP_ADDR": "127.0.0.1:0", "FETCH_GATEWAY": "off", "FETCH_DATA_DIR": t.TempDir(),
	}
	return a
}

// start starts the worker, again on the same directory, and connects to it.
func (a *lone) start() {
	t := a.t
	t.Helper()
	a.process = launch(t, "worker", program("worker"), a.env)
	a.http = "http://" + field(t, a.says(t, `"serving"`), "http")
	nc, err := nats.Connect(field(t, a.says(t, `"embedded NATS"`), "url"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	a.nc = nc
	if a.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
}

// publish publishes as any client does.
func (a *lone) publish(agent, body string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 10*time.Second)
	defer cancel()
	if _, err := a.js.Publish(ctx, "fetch.request.fmp.interactive.quote."+agent, []byte(body)); err != nil {
		a.t.Fatal(err)
	}
}

func (a *lone) final(id fetchworker.Identity) fetchworker.Answer {
	a.t.Helper()
	agent, err := fetchworker.NewClient(a.nc, id.Agent)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), 30*time.Second)
	defer cancel()
	got, err := agent.Wait(ctx, id)
	if err != nil {
		a.t.Fatal(err)
	}
	return got
}

func next(t *testing.T, live *nats.Subscription) *nats.Msg {
	t.Helper()
	m, err := live.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
