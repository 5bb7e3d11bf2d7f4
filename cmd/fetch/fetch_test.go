package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// rig is a server with the topology, and a worker that answers as a test says.
type rig struct {
	t      *testing.T
	b      *brokertest.Broker
	mu     sync.Mutex
	asked  []fetchworker.Request
	answer func(fetchworker.Request) fetchworker.Answer
}

func newRig(t *testing.T, answer func(fetchworker.Request) fetchworker.Answer) *rig {
	t.Helper()
	r := &rig{t: t, b: brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0"), answer: answer}
	t.Cleanup(r.b.Stop)
	consumer, err := r.b.JS.CreateConsumer(t.Context(), fetchworker.StreamRequests, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := consumer.Consume(r.serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		consuming.Stop()
		<-consuming.Closed()
	})
	return r
}

func (r *rig) serve(m jetstream.Msg) {
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
	a := answer(request)
	a.Identity, a.Generation = request.Identity(), 1
	if _, err := r.b.JS.PublishMsg(context.Background(), a.Encode()); err != nil {
		r.t.Error(err)
	}
	if err := m.Ack(); err != nil {
		r.t.Error(err)
	}
}

// says changes how the requests that come from now on are answered.
func (r *rig) says(answer func(fetchworker.Request) fetchworker.Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// questions are all that have come so far.
func (r *rig) questions() []fetchworker.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

func (r *rig) run(args ...string) (stdout, stderr string, err error) {
	r.t.Helper()
	return r.runAt(r.b.Server.URL(), args...)
}

func (r *rig) runAt(server string, args ...string) (stdout, stderr string, err error) {
	r.t.Helper()
	var out, errs bytes.Buffer
	env := map[string]string{"NATS_URL": server}
	err = run(r.t.Context(), args, func(name string) string { return env[name] }, &out, &errs)
	return out.String(), errs.String(), err
}

func okAnswer(fetchworker.Request) fetchworker.Answer {
	return fetchworker.Answer{
		Status: fetchworker.StatusOK, Final: true, Source: fetchworker.SourceOrigin, HTTPStatus: 200, Calls: 1,
		FetchedAt: time.Now(), Latency: 12 * time.Millisecond, ContentType: "application/json", Body: []byte(`[{"price": 191.31}]` + "\n"),
	}
}

func TestTheBodyGoesToStdoutAndOneLineToStderr(t *testing.T) {
	r := newRig(t, okAnswer)
	stdout, stderr, err := r.run("fmp", "quote", "symbol=AAPL")
	if err != nil || stdout != `[{"price": 191.31}]`+"\n" {
		t.Errorf("%q, %v", stdout, err)
	}
	if told := regexp.MustCompile(`^asked as cli, id [A-Z0-9]{26}\nok, 20 bytes, 12 ms \(\d+ms in all\)\n$`); !told.MatchString(stderr) {
		t.Errorf("status line %q", stderr)
	}
}

func TestArgumentsAndFlagsAreTheRequest(t *testing.T) {
	r := newRig(t, okAnswer)
	if _, _, err := r.run("fmp", "quote", "symbol=AAPL", "limit=2", "--lane", "batch", "--agent", "alice", "--id", "q-1",
		"--ttl", "10m", "--max-age", "0s", "--max-stale", "1h", "--use", "export,research"); err != nil {
		t.Fatal(err)
	}
	got := r.questions()[0]
	if got.MaxAge == nil || *got.MaxAge != 0 {
		t.Errorf("max_age %v", got.MaxAge)
	}
	got.MaxAge = nil
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"q-1","params":{"limit":"2","symbol":"AAPL"},"ttl":"10m0s","max_stale":"1h0m0s","use":["export","research"]}`
	if string(text) != want || got.Lane != fetchworker.LaneBatch || got.Agent != "alice" || got.Provider != "fmp" || got.Operation != "quote" {
		t.Errorf("%s %+v", text, got)
	}
}

func TestTheAgentIsTheNATSUser(t *testing.T) {
	r := newRig(t, okAnswer)
	for server, want := range map[string]string{
		r.b.Server.URL(): "cli",
		strings.Replace(r.b.Server.URL(), "nats://", "nats://alice:secret@", 1): "alice",
		strings.Replace(r.b.Server.URL(), "nats://", "nats://s3cr3t-token@", 1): "cli", // no name, but a secret
	} {
		if _, _, err := r.runAt(server, "fmp", "quote", "symbol=AAPL"); err != nil {
			t.Fatal(err)
		}
		if got := r.questions()[len(r.questions())-1].Agent; got != want {
			t.Errorf("agent %q, want %q", got, want)
		}
	}
}

func TestAFailureIsToldAndLeavesStdoutAlone(t *testing.T) {
	r := newRig(t, func(r fetchworker.Request) fetchworker.Answer {
		p := fetchworker.Failure(r.Identity(), fetchworker.CodeNotFound, "no such symbol")
		return fetchworker.Answer{Status: fetchworker.StatusFailed, Final: true, Problem: &p, HTTPStatus: 404, Calls: 1}
	})
	stdout, stderr, err := r.run("fmp", "quote", "symbol=NOPE")
	if !errors.Is(err, errFailed) || errors.Is(err, errUsage) || stdout != "" || !strings.HasSuffix(stderr, "\nfailed, not_found: no such symbol\n") || exitCode(err) != 1 {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
	stdout, _, err = r.run("fmp", "quote", "symbol=NOPE", "--json")
	var got struct {
		Status  string              `json:"status"`
		Headers map[string]string   `json:"headers"`
		Body    fetchworker.Problem `json:"body"`
	}
	if !errors.Is(err, errFailed) || json.Unmarshal([]byte(stdout), &got) != nil ||
		got.Status != "failed" || got.Headers["Fetch-Http-Status"] != "404" || got.Body.Code() != fetchworker.CodeNotFound {
		t.Errorf("%s, %v", stdout, err)
	}
}

func TestJSONHoldsAnyBody(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"json":   {`{"a": 1.10}`, `"body":{"a":1.10}`},
		"text":   {"a,b\n1,2\n", `"body":"a,b\n1,2\n"`},
		"binary": {"\xff\x00", `"body_base64":"/wA="`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(fetchworker.Request) fetchworker.Answer {
				a := okAnswer(fetchworker.Request{})
				a.Body, a.Status, a.Source, a.Age = []byte(c.body), fetchworker.StatusStale, fetchworker.SourceCache, 3*time.Hour
				return a
			})
			stdout, stderr, err := r.run("fmp", "quote", "symbol=AAPL", "--json")
			if err != nil || !strings.Contains(stdout, c.want) || !strings.Contains(stdout, `"Fetch-Status":"stale"`) || strings.Count(stdout, "\n") != 1 {
				t.Errorf("%s, %v", stdout, err)
			}
			if !strings.Contains(stderr, "stale") || !strings.Contains(stderr, "3h0m0s old, from the cache") {
				t.Errorf("status line %q", stderr)
			}
		})
	}
}

func TestWithoutAFinalAnswerItSaysWhyAndHowToAskAgain(t *testing.T) {
	r := newRig(t, func(r fetchworker.Request) fetchworker.Answer {
		p := fetchworker.Waiting(r.Identity(), fetchworker.ReasonCircuitOpen, "", time.Now().Add(time.Hour))
		return fetchworker.Answer{Status: fetchworker.StatusWaiting, Problem: &p}
	})
	stdout, _, err := r.run("fmp", "quote", "symbol=AAPL", "--timeout", "2s", "--id", "q-1")
	if exitCode(err) != 3 || stdout != "" || !strings.Contains(err.Error(), "waiting, circuit_open") || !strings.Contains(err.Error(), "--id q-1") {
		t.Errorf("%q, %v", stdout, err)
	}
	stdout, stderr, err := r.run("fmp", "quote", "symbol=AAPL", "--timeout", "1s", "--id", "q-1", "--json")
	if exitCode(err) != 3 || !strings.Contains(stdout, `"status":"waiting"`) || !strings.Contains(stdout, `"id":"q-1"`) || !strings.Contains(stderr, "circuit_open") {
		t.Errorf("%q, %q, %v", stdout, stderr, err)
	}
}

func TestMistakesOfUsage(t *testing.T) {
	r := newRig(t, okAnswer)
	for name, args := range map[string][]string{
		"nothing":           {},
		"no operation":      {"fmp"},
		"no pair":           {"fmp", "quote", "AAPL"},
		"twice":             {"fmp", "quote", "symbol=A", "symbol=B"},
		"unknown flag":      {"fmp", "quote", "--colour"},
		"not a duration":    {"fmp", "quote", "--ttl", "soon"},
		"negative duration": {"fmp", "quote", "--ttl", "-1s"},
		"a life of nothing": {"fmp", "quote", "symbol=A", "--ttl", "0s"},
		"out without from":  {"fmp", "quote", "symbol=A", "--out", "answers.ndjson"},
		"parallel, no from": {"fmp", "quote", "symbol=A", "--parallel", "5"},
		"lane":              {"fmp", "quote", "--lane", "express"},
		"agent":             {"fmp", "quote", "--agent", "A B"},
		"id":                {"fmp", "quote", "--id", "a b"},
		"provider":          {"F.MP", "quote"},
	} {
		if _, _, err := r.run(args...); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(r.questions()) != 0 {
		t.Errorf("asked %v", r.questions())
	}
	if stdout, _, err := r.run("--help"); err != nil || !strings.Contains(stdout, "Examples:") {
		t.Errorf("help: %v\n%s", err, stdout)
	}
	if _, _, err := r.runAt("nats://127.0.0.1:1", "fmp", "quote"); exitCode(err) != 4 || !strings.Contains(err.Error(), "NATS_URL") {
		t.Errorf("no server: %v", err)
	}
}

// An address that can be none is a mistake of usage, told at once, and no error
// about an address shows its password or token.
func TestAnAddressIsToldWithoutItsSecret(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	contexts := filepath.Join(home, "nats", "context")
	if err := os.MkdirAll(contexts, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"slash": `{"url":"nats://u:s3cret/s3cret@127.0.0.1:1"}`, "nobody": `{"url":"nats://u:s3cret@127.0.0.1:1"}`} {
		if err := os.WriteFile(filepath.Join(contexts, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		code int
		env  map[string]string
		args []string
	}{
		{2, map[string]string{"NATS_URL": "nats://u:s3cret%zz@127.0.0.1:1"}, nil},
		{2, map[string]string{"NATS_URL": "nats://u:s3 cret@127.0.0.1:1"}, nil},
		{2, map[string]string{"NATS_URL": "nats://u:s3cret/x@127.0.0.1:1"}, nil},
		{2, map[string]string{"NATS_URL": "u:s3cret#x@127.0.0.1:1"}, nil},
		{2, map[string]string{"NATS_URL": "nats://u:s3cret@127.0.0.1:port"}, nil},
		{2, map[string]string{"NATS_URL": "https://u:s3cret@127.0.0.1:1"}, nil},
		{2, map[string]string{"NATS_URL": "ws://u:s3cret@127.0.0.1:1,nats://s3cret@127.0.0.1:1"}, nil},
		{2, map[string]string{"NATS_CONTEXT": "slash"}, nil},
		{2, map[string]string{"NATS_CONTEXT": "nope"}, nil},
		{2, map[string]string{"NATS_URL": "nats://127.0.0.1:1", "NATS_CREDS": "/nowhere"}, nil},
		{2, nil, []string{"--server", "nats://s3cret/s3cret@127.0.0.1:1"}},
		{2, nil, []string{"--server", "nats://127.0.0.1:1", "--creds", "/nowhere"}},
		{2, nil, []string{"--context", "slash"}},
		{4, map[string]string{"NATS_URL": "nats://u:s3cret@127.0.0.1:1"}, nil},
		{4, map[string]string{"NATS_CONTEXT": "nobody"}, nil},
		{4, map[string]string{"NATS_CONTEXT": "slash"}, []string{"--server", "nats://s3cret@127.0.0.1:1"}},
	} {
		for _, words := range [][]string{{"fmp", "quote"}, {"ops"}, {"mcp"}, {"fmp", "--help"}} {
			var out, errs bytes.Buffer
			err := run(t.Context(), append(words, c.args...), func(name string) string { return c.env[name] }, &out, &errs)
			said := fmt.Sprint(out.String(), errs.String(), err)
			if help := words[len(words)-1] == "--help"; !help && (exitCode(err) != c.code || !strings.Contains(said, "NATS_URL")) || help && err != nil {
				t.Errorf("%v %v: exit %d: %s", c.env, words, exitCode(err), said)
			}
			if strings.Contains(said, "s3") {
				t.Errorf("%v %v: shows the secret: %s", c.env, words, said)
			}
		}
	}
}
