package budget

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/budget/turns"
)

// serverDir, if it is set, makes this program a server with its files there.
const serverDir = "BUDGET_TEST_SERVER"

// beServer is a server process, until its input ends. For each line of it, it
// says how much CPU it has used.
func beServer(dir string) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		panic("the server does not start")
	}
	fmt.Println(s.ClientURL())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); { //nolint:forbidigo // a process of its own
		var use syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
			panic(err)
		}
		fmt.Println(time.Duration(use.Utime.Nano() + use.Stime.Nano()))
	}
	s.Shutdown()
	s.WaitForShutdown()
}

// serverProcess is a server that can be stopped and measured.
type serverProcess struct {
	*exec.Cmd
	t   *testing.T
	url string
	in  io.WriteCloser
	out *bufio.Reader
}

func startServer(t *testing.T) *serverProcess {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &serverProcess{t: t, Cmd: exec.CommandContext(t.Context(), program)}
	p.Env = append(os.Environ(), serverDir+"="+t.TempDir())
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Signal(syscall.SIGCONT)
		_ = p.in.Close()
		_ = p.Wait()
	})
	p.out = bufio.NewReader(out)
	p.url = p.line()
	return p
}

func (p *serverProcess) line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// cpu is what it has used so far.
func (p *serverProcess) cpu() time.Duration {
	p.t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.t.Fatal(err)
	}
	d, err := time.ParseDuration(p.line())
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

// connect is a client that does not give up.
func (p *serverProcess) connect() (jetstream.JetStream, jetstream.KeyValue) {
	p.t.Helper()
	nc, err := nats.Connect(p.url, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.PingInterval(10*time.Second), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		p.t.Fatal(err)
	}
	return js, topology(p.t, js)
}

// TestStoppedServer: a server that stood still goes on, and an order of
// meanwhile is obeyed at once, and no watch is left over.
func TestStoppedServer(t *testing.T) {
	still := 6 * time.Second
	if *simFull {
		still = 40 * time.Second
	}
	server := startServer(t)
	js, kv := server.connect()
	if err := CreateRegister(t.Context(), kv, "fmp"); err != nil {
		t.Fatal(err)
	}
	var gates []*Gate
	for _, name := range []string{"w1", "w2", "w3"} {
		js, kv := server.connect()
		mirror, err := store.NewMirror(t.Context(), js, kv, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer mirror.Close() //nolint:revive // all three are open until the end
		g, err := Open(t.Context(), js, kv, Settings{Provider: "fmp", Worker: name, Limits: perMinute(600), CircuitFailures: 3, Mirror: mirror}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close() //nolint:revive // as the mirrors
		gates = append(gates, g)
		p, err := g.Acquire(t.Context(), turns.Ask{})
		if err != nil {
			t.Fatal(err)
		}
		p.Done(Report{Outcome: circuit.Success, Remaining: -1})
	}
	// Beside them, with nothing but the client library: what the machine takes.
	bare, err := kv.Watch(t.Context(), store.ControlKey("fmp"), jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bare.Stop() }()
	heard := make(chan time.Time, 1)
	go func() {
		if e := <-bare.Updates(); e != nil {
			heard <- time.Now()
		}
	}()
	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(still, func() { _ = server.Process.Signal(syscall.SIGCONT) })
	for { // an operator who does not give up
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := fleet.Pause(ctx, kv, "fmp", time.Now().Add(time.Hour), "alice", "meanwhile")
		cancel()
		if err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	given := time.Now()
	for i, g := range gates {
		for g.State().PausedUntil.IsZero() && time.Since(given) < 10*time.Second {
			time.Sleep(10 * time.Millisecond)
		}
		t.Logf("worker %d obeys after %v", i, time.Since(given))
	}
	d, machine := time.Since(given), 10*time.Second
	select {
	case at := <-heard:
		machine = max(at.Sub(given), 0)
	default:
	}
	if d > 3*time.Second+2*machine {
		t.Errorf("the pause is obeyed after %v; a bare watch heard of it after %v", d, machine)
	}
	_ = bare.Stop()
	consumers := 1 << 20
	for range 40 { // those without a listener go by themselves
		stream, err := js.Stream(t.Context(), "KV_"+store.Bucket)
		if err != nil { // a busy machine
			t.Log(err)
			continue
		}
		if consumers = stream.CachedInfo().State.Consumers; consumers <= len(gates) {
			break
		}
		time.Sleep(250 * time.Millisecond)
	}
	if consumers > len(gates) {
		t.Errorf("%d consumers for %d workers", consumers, len(gates))
	}
}
