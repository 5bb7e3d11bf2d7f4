package fetchworker_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go"
)

// conformance is a case of testdata/conformance.
type conformance struct {
	Name  string `json:"name"`
	Rule  string `json:"rule"`
	Agent string `json:"agent"`
	Ask   struct {
		Provider  string          `json:"provider"`
		Operation string          `json:"operation"`
		ID        string          `json:"id"`
		Params    json.RawMessage `json:"params"`
	} `json:"ask"`
	Service struct {
		Receipts []json.RawMessage `json:"receipts"`
		Live     []wireAnswer      `json:"live"`
		Stored   *wireAnswer       `json:"stored"`
		Parts    []string          `json:"parts"`
	} `json:"service"`
	Expect expected `json:"expect"`
}

type expected struct {
	Status    string `json:"status,omitempty"`
	Body      string `json:"body,omitempty"`
	Code      string `json:"code,omitempty"`
	Error     string `json:"error,omitempty"`
	Publishes int    `json:"publishes,omitempty"`
	WithinMS  int    `json:"within_ms,omitempty"`
}

type wireAnswer struct {
	ID      string            `json:"id"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// play is the service of a case.
type play struct {
	t *testing.T
	conformance
	nc *nats.Conn

	mu          sync.Mutex
	publishes   int
	first, last time.Time // of them
}

// soonest is how soon a client may publish the same again.
const soonest = 250 * time.Millisecond

func (p *play) result(id string) string {
	return "fetch.result." + p.Ask.Provider + "." + p.Ask.Operation + "." + p.Agent + "." + id
}

// message is an answer as the server sends it, live or stored.
func (p *play) message(a wireAnswer, sequence int) *nats.Msg {
	id := a.ID
	if id == "" {
		id = p.Ask.ID
	}
	m := nats.NewMsg(p.result(id))
	for name, value := range a.Headers {
		m.Header.Set(name, value)
	}
	m.Header.Set("Nats-Stream", "FETCH_RESULTS")
	m.Header.Set("Nats-Subject", m.Subject)
	m.Header.Set("Nats-Sequence", strconv.Itoa(sequence))
	m.Data = []byte(a.Body)
	return m
}

func (p *play) serve() {
	p.t.Helper()
	on := func(subject string, do func(*nats.Msg)) {
		if _, err := p.nc.Subscribe(subject, do); err != nil {
			p.t.Fatal(err)
		}
	}
	on("fetch.request.>", p.request)
	on("$JS.API.DIRECT.GET.FETCH_RESULTS.>", func(m *nats.Msg) {
		if p.Service.Stored == nil || !strings.HasSuffix(m.Subject, "."+p.Ask.ID) {
			p.missing(m)
			return
		}
		stored := p.message(*p.Service.Stored, 100)
		stored.Subject = m.Reply
		_ = p.nc.PublishMsg(stored)
	})
	on("$JS.API.DIRECT.GET.FETCH_BODIES.>", func(m *nats.Msg) {
		n, _ := strconv.Atoi(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
		if n < 1 || n > len(p.Service.Parts) {
			p.missing(m)
			return
		}
		part := nats.NewMsg(m.Reply)
		part.Header.Set("Nats-Stream", "FETCH_BODIES")
		part.Header.Set("Nats-Subject", strings.TrimPrefix(m.Subject, "$JS.API.DIRECT.GET.FETCH_BODIES."))
		part.Header.Set("Nats-Sequence", strconv.Itoa(n))
		part.Data = []byte(p.Service.Parts[n-1])
		_ = p.nc.PublishMsg(part)
	})
	if err := p.nc.Flush(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *play) missing(m *nats.Msg) {
	reply := nats.NewMsg(m.Reply)
	reply.Header.Set("Status", "404")
	reply.Header.Set("Description", "Message Not Found")
	_ = p.nc.PublishMsg(reply)
}

// request takes one publish.
func (p *play) request(m *nats.Msg) {
	var body struct {
		ID     string          `json:"id"`
		Params json.RawMessage `json:"params"`
	}
	id := strings.Join([]string{p.Ask.Provider, p.Ask.Operation, p.Agent, p.Ask.ID}, ".")
	if err := json.Unmarshal(m.Data, &body); err != nil || body.ID != p.Ask.ID || m.Header.Get("Nats-Msg-Id") != id ||
		m.Subject != "fetch.request."+p.Ask.Provider+".interactive."+p.Ask.Operation+"."+p.Agent || m.Reply == "" ||
		fetchworker.RequestDigest("", body.Params) != fetchworker.RequestDigest("", p.Ask.Params) {
		p.t.Errorf("published %s %v %s", m.Subject, m.Header, m.Data)
	}
	p.mu.Lock()
	n := min(p.publishes, len(p.Service.Receipts)-1)
	if p.last = time.Now(); p.publishes == 0 {
		p.first = p.last
	}
	p.publishes++
	p.mu.Unlock()
	if string(p.Service.Receipts[n]) == "null" {
		return
	}
	_ = p.nc.Publish(m.Reply, p.Service.Receipts[n])
	if n == len(p.Service.Receipts)-1 {
		for i, a := range p.Service.Live {
			_ = p.nc.PublishMsg(p.message(a, i+1))
		}
	}
}

// conform runs a client through every case.
func conform(t *testing.T, client func(context.Context, string, conformance) (expected, error)) {
	t.Helper()
	files, err := filepath.Glob("testdata/conformance/*.json")
	if err != nil || len(files) != 12 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := &play{t: t}
		if err := json.Unmarshal(text, &p.conformance); err != nil {
			t.Fatal(err)
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			p.t = t
			s, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Sync: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Shutdown()
			if p.nc, err = s.Connect(); err != nil {
				t.Fatal(err)
			}
			defer p.nc.Close()
			p.serve()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			began := time.Now()
			got, err := client(ctx, s.URL(), p.conformance)
			took := time.Since(began)
			if err != nil {
				t.Fatal(err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			want := p.Expect
			if got.Status != want.Status || got.Body != want.Body || got.Code != want.Code || got.Error != want.Error {
				t.Errorf("%s\ngot  %+v\nwant %+v", p.Rule, got, want)
			}
			// Where this machine was slow to reply it may have been published again.
			slow := int(p.last.Sub(p.first) / soonest)
			if n := p.publishes; want.Publishes != 0 && (n < want.Publishes || n > max(want.Publishes, 1+slow)) {
				t.Errorf("%s\npublished %d times within %v", p.Rule, n, p.last.Sub(p.first))
			}
			if want.WithinMS != 0 && took > time.Duration(want.WithinMS)*time.Millisecond {
				t.Errorf("%s\nafter %v", p.Rule, took)
			}
		})
	}
}

func TestOurClientConforms(t *testing.T) {
	conform(t, func(ctx context.Context, url string, c conformance) (expected, error) {
		client, err := fetchworker.Connect(url, c.Agent)
		if err != nil {
			return expected{}, err
		}
		defer client.Close()
		a, err := client.Fetch(ctx, fetchworker.Request{Provider: c.Ask.Provider, Operation: c.Ask.Operation, ID: c.Ask.ID, Params: c.Ask.Params})
		got := expected{}
		switch {
		case errors.Is(err, fetchworker.ErrQueueFull):
			got.Error = "queue_full"
		case errors.Is(err, fetchworker.ErrIDReused):
			got.Error = "id_reused"
		case errors.Is(err, fetchworker.ErrBodyCorrupt):
			got.Error = "body_corrupt"
		case err != nil && ctx.Err() == nil:
			got.Error = "refused"
		case err != nil:
			return got, err
		case a.Problem != nil:
			got.Status, got.Code = string(a.Status), string(a.Problem.Code())
		default:
			got.Status, got.Body = string(a.Status), string(a.Body)
		}
		return got, nil
	})
}

// TestTheExamplesConform runs the clients of other languages, where they can
// be run: FETCH_INTEROP is set by make interop.
func TestTheExamplesConform(t *testing.T) {
	if os.Getenv("FETCH_INTEROP") == "" {
		t.Skip("make interop runs the clients of other languages")
	}
	// The protocol's client in fifty lines stands where its modules are found.
	fifty := "examples/node/fifty-lines.tmp.mjs"
	_, examples := protocolExamples(t)
	i := slices.IndexFunc(examples, func(e example) bool { return e.kind == "js" })
	if err := os.WriteFile(fifty, []byte(examples[i].text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(fifty) })
	for name, command := range map[string][]string{
		"node":   {"node", "examples/node/conformance.mjs"},
		"fifty":  {"node", "examples/node/conformance.mjs"},
		"python": {"python3", "examples/python/conformance.py"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "python" && exec.Command("python3", "-P", "-c", "import nats.aio.client").Run() != nil {
				t.Skip("nats-py is not installed")
			}
			conform(t, func(ctx context.Context, url string, c conformance) (got expected, err error) {
				text, err := json.Marshal(c)
				if err != nil {
					return got, err
				}
				cmd := exec.CommandContext(ctx, command[0], append(command[1:], string(text))...)
				cmd.Env = append(os.Environ(), "NATS_URL="+url)
				if name == "fifty" {
					cmd.Env = append(cmd.Env, "FETCH_CLIENT=./"+filepath.Base(fifty))
				}
				cmd.Stderr = t.Output()
				out, err := cmd.Output()
				if err != nil {
					return got, err
				}
				return got, json.Unmarshal(out, &got)
			})
		})
	}
}
