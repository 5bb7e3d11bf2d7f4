package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/dial"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// ask is what a process says of itself at an address, status 0 if it says
// nothing.
func ask(t *testing.T, addr, path string) (status int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req) //nolint:forbidigo // loopback, and ctx has an end
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// TestAStartSaysWhatItWaitsFor: one line at once with the address, alive and
// not ready meanwhile, and a stop is a stop.
func TestAStartSaysWhatItWaitsFor(t *testing.T) {
	begin(t)
	addr := "127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t))
	nobody := "worker:s3cret@127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t))
	for name, args := range map[string][]string{"worker": nil, "replayer": {"run"}} {
		env := map[string]string{"NATS_URL": nobody, "FETCH_HTTP_ADDR": addr}
		started := time.Now()
		p := launch(t, name, program(name), env, args...)
		line := p.says(t, "waiting for NATS")
		if took := time.Since(started); took > 5*time.Second || !strings.Contains(line, "127.0.0.1:") {
			t.Errorf("%s: after %v: %s", name, took, line)
		}
		if status, text := ask(t, addr, "/healthz"); status != 200 {
			t.Errorf("%s: healthz %d %s", name, status, text)
		}
		if status, text := ask(t, addr, "/readyz"); status != 503 || !strings.Contains(text, "waiting for") {
			t.Errorf("%s: readyz %d %s", name, status, text)
		}
		if _, text := ask(t, addr, "/metrics"); !strings.Contains(text, "fetch_ready 0\n") || !strings.Contains(text, "fetch_nats_connected 0\n") {
			t.Errorf("%s: its metrics do not say that it waits", name)
		}
		p.signal(t, syscall.SIGTERM)
		if code := p.ended(t, 10*time.Second); code != 0 {
			t.Errorf("%s: exit code %d when stopped", name, code)
		}
		if said := p.log.tail(1000); strings.Contains(said, "s3cret") {
			t.Errorf("%s tells the password: %s", name, said)
		}
	}
}

// TestAStartEndsAtOnceWhereItMayNot: what no waiting brings is told with the
// variable that is to be set.
func TestAStartEndsAtOnceWhereItMayNot(t *testing.T) {
	begin(t)
	servers := oneServer(t)
	f := withServers(t, servers, 1) // the topology, and the replayers' consumer
	for what, c := range map[string]struct {
		set  map[string]string
		want string
	}{
		"no inbox prefix":      {map[string]string{"NATS_INBOX_PREFIX": ""}, "NATS_INBOX_PREFIX"},
		"another's prefix":     {map[string]string{"NATS_INBOX_PREFIX": "_INBOX_operator"}, "NATS_INBOX_PREFIX"},
		"no right to replay":   {map[string]string{"FETCH_REPLAY": "on"}, "FETCH_REPLAY"},
		"a user who only asks": {map[string]string{"NATS_URL": urls(t, servers, "alice"), "NATS_INBOX_PREFIX": "_INBOX_alice"}, "max_payload"},
	} {
		env := maps.Clone(f.env)
		maps.Copy(env, c.set)
		started := time.Now()
		p := launch(t, what, program("worker"), env)
		if code := p.ended(t, 10*time.Second); code != 1 || !strings.Contains(p.log.tail(3), c.want) {
			t.Errorf("%s: exit code %d after %v: %s", what, code, time.Since(started), p.log.tail(3))
		}
	}
}

// TestAStartWaitsForTheStreams that somebody else is about to make.
func TestAStartWaitsForTheStreams(t *testing.T) {
	begin(t)
	servers := oneServer(t)
	worker := launch(t, "worker", program("worker"), map[string]string{
		"NATS_URL": urls(t, servers, "worker"), "NATS_INBOX_PREFIX": "_INBOX_worker", "FMP_API_KEY": aKey, "FETCH_HTTP_ADDR": "off",
	})
	worker.says(t, "waiting for the streams")
	withServers(t, servers, 1)
	worker.says(t, `"serving"`)
}

// TestWhatIsDeletedIsNamedAndHealed: a consumer is made again with a line; a
// bucket is named by /readyz within five seconds, and after worker apply all
// goes on without a restart.
func TestWhatIsDeletedIsNamedAndHealed(t *testing.T) {
	begin(t)
	a := alone(t)
	a.start()
	addr := strings.TrimPrefix(a.http, "http://")
	admin, err := broker.Connect(t.Context(), dial.Address{URL: a.nc.ConnectedUrl()}, zap.NewNop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	js, err := broker.JetStream(admin)
	if err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "it is ready", func() bool { status, _ := ask(t, addr, "/readyz"); return status == 200 })
	a.publish("alice", `{"id":"before","params":{"symbol":"AAPL"}}`)
	a.final(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "before"})
	stream, err := js.Stream(t.Context(), fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if line := a.says(t, "made again"); !strings.Contains(line, "fmp-interactive-") {
		t.Error(line)
	}
	for _, stream := range []string{"KV_fetch_providers", fetchworker.StreamBodies} {
		var config jetstream.StreamConfig
		for _, c := range broker.Streams(broker.Options{}) {
			if c.Name == stream {
				config = c
			}
		}
		if err := js.DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		until(t, 5*time.Second, "/readyz names "+stream, func() bool {
			status, text := ask(t, addr, "/readyz")
			return status == 503 && strings.Contains(text, stream)
		})
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		until(t, 20*time.Second, "it is ready again", func() bool { status, _ := ask(t, addr, "/readyz"); return status == 200 })
	}
	a.publish("alice", `{"id":"after","params":{"symbol":"AAPL"}}`)
	if got := a.final(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "after"}); got.Status != fetchworker.StatusOK {
		t.Error(fmt.Sprint(got))
	}
}
