package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
)

// An agent asks for a thousand quotes, and has them, while the worker and the
// server are killed and started again.
func TestAnAgentsThousandQuotesSurviveRestarts(t *testing.T) {
	begin(t)
	servers := oneServer(t)
	f := withServers(t, servers, 1)
	n := pick(200, 1000)
	got := make(chan map[string]int, 1)
	w := f.worker() // a third
	go func() { got <- quotes(t.Context(), f.nc, n) }()
	for i := range pick(1, 3) {
		until(t, time.Minute, "some are answered", func() bool { return len(f.upstream.Calls()) > (i+1)*n/5 })
		servers[0].kill()
		w.kill()
		servers[0].start(t)
		w = f.worker()
	}
	select {
	case counted := <-got:
		if counted["ok"] != n {
			t.Errorf("%d quotes asked for, answered %v", n, counted)
		}
	case <-time.After(3 * time.Minute): //nolint:forbidigo // the test has no other end
		t.Fatal("there are answers missing after three minutes")
	}
}

// quotes is the whole program of such an agent.
func quotes(ctx context.Context, nc *nats.Conn, n int) map[string]int {
	got := map[string]int{}
	client, err := fetchworker.NewClient(nc, "alice")
	if err != nil {
		return got
	}
	defer client.Close()
	for a, err := range client.FetchAll(ctx, func(yield func(fetchworker.Request) bool) {
		for i := 0; i < n && yield(fetchworker.Request{Provider: "fmp", Operation: "quote", Params: fmt.Appendf(nil, `{"symbol":"Q%d"}`, i)}); i++ {
		}
	}) {
		got[fmt.Sprint(a.Status, err)[:2]]++
	}
	return got
}

// fetch --from is killed at half of its lines and run again: every line has one
// answer, and none whose answer was written is asked again.
func TestAListThatIsKilledHalfwayGoesOn(t *testing.T) {
	begin(t)
	f := newFleet(t, well(5*time.Millisecond))
	f.worker()
	n := pick(300, 5000)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "symbols.csv"), filepath.Join(dir, "answers.ndjson")
	lines := strings.Builder{}
	lines.WriteString("symbol\n")
	for i := range n {
		fmt.Fprintf(&lines, "L%d\n", i)
	}
	if err := os.WriteFile(in, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func() *process {
		return launch(t, "fetch", program("fetch"), map[string]string{"NATS_URL": f.env["NATS_URL"]},
			"fmp", "quote", "--agent", "alice", "--from", in, "--out", out, "--parallel", "50", "--timeout", "5m")
	}
	written := func() [][]byte {
		b, err := os.ReadFile(out)
		if err != nil {
			return nil
		}
		lines := bytes.Split(b[:bytes.LastIndexByte(b, '\n')+1], []byte("\n")) // a kill may leave a part of one
		return lines[min(1, len(lines)-1) : len(lines)-1]                      // the first names the run
	}
	first := run()
	until(t, time.Minute, "half of the lines are answered", func() bool { return len(written()) >= n/2 })
	first.kill()
	before := written()
	if code := run().ended(t, 5*time.Minute); code != 0 {
		t.Fatalf("the second run ends with %d", code)
	}
	after := written()
	ids := map[string]int{}
	for _, line := range after {
		var a struct {
			ID     string `json:"id"`
			Status string `json:"status"`
		}
		if err := json.Unmarshal(line, &a); err != nil || a.Status != "ok" {
			t.Fatalf("%s: %v", line, err)
		}
		ids[a.ID]++
	}
	if len(after) != n || len(ids) != n {
		t.Errorf("%d lines, %d ids of %d", len(after), len(ids), n)
	}
	for i := range n {
		if calls := len(f.calls(fmt.Sprint("L", i))); calls != 1 {
			t.Errorf("line %d was called %d times", i, calls)
		}
	}
	t.Logf("killed at %d of %d, %d calls", len(before), n, len(f.upstream.Calls()))
}
