package deploy_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
)

// binaries is where ours are, once a test has asked for them.
var binaries string

// built builds our binaries, once for all tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fetchworker")
	if err != nil {
		return "", err
	}
	binaries = dir
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/worker", "./cmd/replayer")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries != "" {
		_ = os.RemoveAll(binaries)
	}
	os.Exit(code)
}

// process is one of compose's services, run here with its own command and
// environment.
type process struct {
	*exec.Cmd
	name string
	logs bytes.Buffer
}

// run starts a service of the compose file; host is where its "nats" is.
func run(t *testing.T, p *types.Project, service, host string, more ...string) *process {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	s := p.Services[service]
	binary, command := s.Build.Target, []string(s.Command)
	if service == "replayer" {
		command = []string{"run"} // the image's own
	}
	c := &process{Cmd: exec.Command(filepath.Join(dir, binary), command...), name: service}
	for name, value := range s.Environment {
		if value != nil {
			c.Env = append(c.Env, name+"="+strings.ReplaceAll(*value, "@nats:4222", "@"+host))
		}
	}
	c.Env = append(c.Env, more...)
	c.Dir = t.TempDir()
	c.Stdout, c.Stderr = &c.logs, &c.logs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		if t.Failed() {
			t.Logf("%s:\n%s", c.name, c.logs.String())
		}
	})
	return c
}

// TestComposeRunsAsWritten starts what compose starts, but for the containers:
// the shipped server configuration, then apply, two workers and a replayer,
// each with the command, the environment and so the credentials it has there.
func TestComposeRunsAsWritten(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the programs")
	}
	p := project(t, "single", "tools")
	for name, value := range p.Services["nats"].Environment {
		t.Setenv(name, *value)
	}
	var args []string
	for _, arg := range p.Services["nats"].Command {
		args = append(args, strings.ReplaceAll(arg, "/etc/nats", filepath.Join(root, "nats")))
	}
	options, err := server.ConfigureOptions(flag.NewFlagSet("nats", flag.ContinueOnError), args, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	onVolume(t, p, "nats", options.StoreDir)
	options.Host = "127.0.0.1"
	options.Port, options.HTTPPort, options.StoreDir = server.RANDOM_PORT, 0, t.TempDir()
	options.NoSigs, options.NoLog = true, true
	nats, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	defer nats.Shutdown()
	if !nats.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	host := nats.Addr().String()

	apply := run(t, p, "apply", host)
	if err := apply.Wait(); err != nil {
		t.Fatalf("apply: %v\n%s", err, apply.logs.String())
	}

	upstream, err := providertest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	upstream.Script(providertest.JSON(500, `{}`), providertest.JSON(200, `[{"symbol":"AAPL"}]`))
	const key = "fmp-key-0123456789"
	running := []*process{run(t, p, "replayer", host, "FETCH_HTTP_ADDR="+freeAddr(t))}
	for range 2 {
		listen := "FETCH_HTTP_ADDR=" + freeAddr(t)
		w := run(t, p, "worker", host, listen, "FMP_API_KEY="+key, "FMP_BASE_URL="+upstream.URL()+"/api/v3")
		running = append(running, w)
		healthy(t, w, listen)
	}

	agent, err := fetchworker.Connect("nats://alice:"+os.Getenv("NATS_ALICE_PASSWORD")+"@"+host, "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer, err := agent.Fetch(ctx, fetchworker.Request{Provider: "fmp", Operation: "quote", Params: []byte(`{"symbol":"AAPL"}`)})
	if err != nil || answer.Status != fetchworker.StatusOK || answer.Calls != 2 {
		t.Errorf("%+v %v", answer, err)
	}

	look := run(t, p, "operator", host)
	if err := look.Wait(); err != nil || !strings.Contains(look.logs.String(), "fmp") {
		t.Errorf("the operator sees %v\n%s", err, look.logs.String())
	}

	for _, c := range running {
		_ = c.Process.Signal(syscall.SIGTERM)
		if err := c.Wait(); err != nil {
			t.Errorf("%s ends with %v", c.name, err)
		}
		for _, secret := range []string{key, ":worker@", ":replayer@"} {
			if strings.Contains(c.logs.String(), secret) {
				t.Errorf("%s logs %s", c.name, secret)
			}
		}
		for _, bad := range []string{`"level":"error"`, "Permissions Violation"} {
			if strings.Contains(c.logs.String(), bad) {
				t.Errorf("%s: %s\n%s", c.name, bad, c.logs.String())
			}
		}
	}
}

// healthy waits until the image's own health check passes.
func healthy(t *testing.T, w *process, listen string) {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		check := exec.Command(filepath.Join(dir, "worker"), "health")
		check.Env = []string{listen}
		out, err := check.CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", w.name, out)
		}
	}
}
