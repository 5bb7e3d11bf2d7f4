package main

import (
	"bufio"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/dial"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const deployed = "../../nats/"

// guarded is a server as it is deployed, with users and permissions.
type guarded struct {
	t    *testing.T
	host string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	f, err := os.Open(filepath.Join(deployed, "development.env"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			t.Setenv(name, value)
		}
	}
	options, err := server.ProcessConfigFile(filepath.Join(deployed, "server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	options.Port, options.HTTPPort, options.StoreDir = server.RANDOM_PORT, 0, t.TempDir()
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	return &guarded{t: t, host: s.Addr().String()}
}

func (g *guarded) url(user string) string {
	u := url.URL{Scheme: "nats", Host: g.host, User: url.UserPassword(user, os.Getenv("NATS_"+strings.ToUpper(user)+"_PASSWORD"))}
	return u.String()
}

func (g *guarded) as(user string) jetstream.JetStream {
	g.t.Helper()
	nc, err := broker.Connect(g.t.Context(), dial.Address{URL: g.url(user), Inbox: "_INBOX_" + user}, zap.NewNop(), func(err error) { g.t.Errorf("%s: %v", user, err) })
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(nc.Close)
	js, err := broker.JetStream(nc)
	if err != nil {
		g.t.Fatal(err)
	}
	return js
}

func (g *guarded) replayer(user string, args ...string) (string, int) {
	g.t.Helper()
	cmd := command(g.t, g.url(user), args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		g.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// The operator's rights as deployed are enough for every command, and the
// replayer's for the daemon; who lacks them is told at once.
func TestRightsAsDeployed(t *testing.T) {
	g := newGuarded(t)
	admin := g.as("admin")
	if err := broker.Apply(t.Context(), admin, broker.Options{ResultAge: 168 * time.Hour}, nil); err != nil {
		t.Fatal(err)
	}
	if err := broker.ServeDLQ(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	if err := broker.ServeProvider(t.Context(), admin, "fmp", 16); err != nil {
		t.Fatal(err)
	}
	worker := g.as("worker")
	kv, err := worker.KeyValue(t.Context(), wire.BucketProviders)
	if err != nil {
		t.Fatal(err)
	}
	if err := budget.CreateRegister(t.Context(), kv, "fmp"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"q-1", "q-2", "q-3"} {
		if err := dlq.Put(t.Context(), record.New(worker, nil), testLetter(id)); err != nil {
			t.Fatal(err)
		}
	}
	daemon := command(t, g.url("replayer"), "run")
	daemon.Env = append(daemon.Env, "FETCH_HTTP_ADDR=off")
	var log strings.Builder
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	// Four failures are one too many: the daemon buries these letters.
	buried := g.as("operator")
	for end := time.Now().Add(20 * time.Second); count(t, buried, wire.StreamReview) < 3; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing is in review: %s", log.String())
		}
	}
	waiting := testLetter("q-4")
	waiting.Failures = 1
	if err := dlq.Put(t.Context(), record.New(worker, nil), waiting); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"status"},
		{"list"},
		{"show", "q-1"},
		{"replay", "--all", "--dry-run"},
		{"replay", "q-4"},
		{"pause", "fmp", "--for", "1h", "--reason", "x"},
		{"limit", "fmp", "60/min", "--reason", "x"},
		{"resume", "fmp", "--reason", "x"},
		{"review", "list"},
		{"review", "show", "q-1"},
		{"review", "export"},
		{"review", "requeue", "q-1", "--reason", "x"},
		{"review", "discard", "q-2", "--reason", "x"},
		{"retire", "fmp", "--reason", "x"},
		{"audit"},
	} {
		if out, code := g.replayer("operator", args...); code != exitDone || strings.Contains(out, "could not") {
			t.Errorf("%v: exit code %d: %s", args, code, out)
		}
	}
	if out, _ := g.replayer("operator", "audit"); !strings.Contains(out, "ann as operator") {
		t.Errorf("the audit does not tell the server's user: %s", out)
	}

	began := time.Now()
	out, code := g.replayer("subscriber", "list")
	if code != exitFailed || !strings.Contains(out, "the server refuses these credentials") || time.Since(began) > 5*time.Second {
		t.Errorf("a subscriber: exit code %d after %v: %s", code, time.Since(began), out)
	}
	out, code = g.replayer("replayer", "pause", "fmp", "--for", "1h", "--reason", "x")
	if code != exitFailed || !strings.Contains(out, "the server refuses these credentials") {
		t.Errorf("a replayer that pauses: exit code %d: %s", code, out)
	}
	cmd := command(t, "nats://operator:wrong@"+g.host, "list")
	text, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(text), "give an operator's credentials") || strings.Contains(string(text), "wrong@") {
		t.Errorf("a wrong password: %s", text)
	}

	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("the daemon stops: %v: %s", err, log.String())
	}
	if strings.Contains(log.String(), "ermissions") || !strings.Contains(log.String(), `"message":"replayer stops"`) {
		t.Error(log.String())
	}
}

func count(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// The replayer must not be able to call a provider at all.
func TestItLinksNothingThatCallsProviders(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"fetchworker/internal/fetch", "fetchworker/internal/providers"} {
		for line := range strings.Lines(string(out)) {
			if strings.TrimSpace(line) == pkg {
				t.Errorf("it links %s", pkg)
			}
		}
	}
}
