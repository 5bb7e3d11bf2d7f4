package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestTenThousandDueLettersCostLittle has ten thousand letters be due while their
// provider may be called 120 times a minute: those for whom there is no room are
// left alone, the server has little to do, and there is always one for the next
// permit.
func TestTenThousandDueLettersCostLittle(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("a minute of waiting: with FETCH_CHAOS=full")
	}
	const letters, perMinute, lasts = 10_000, 120, 60 * time.Second
	server, nc, url := plainServer(t, t.TempDir())
	f := withServer(t, well(50*time.Millisecond), nc, nc, map[string]string{"NATS_URL": url})
	f.env["FMP_REQUESTS_PER_MINUTE"] = strconv.Itoa(perMinute)
	worker := f.worker()
	store(t, f.js, letters, func(i int) *nats.Msg {
		id := fmt.Sprint("D", i)
		l := aLetter(id, wire.ClassTransient)
		l.Agent, l.Calls, l.Failures = fmt.Sprint("agent-", i%50), 1, 1
		l.Body = fmt.Appendf(nil, `{"id":%q,"params":{"symbol":%q}}`, id, id)
		return l.DeadLetter()
	})
	replayer := f.replayer()
	looks := func() uint64 {
		c, err := f.js.Consumer(t.Context(), wire.StreamDLQ, "replayer")
		if err != nil {
			t.Fatal(err)
		}
		return c.CachedInfo().Delivered.Consumer
	}
	until(t, time.Minute, "the replayer has met them all", func() bool {
		c, err := f.js.Consumer(t.Context(), wire.StreamDLQ, "replayer")
		return err == nil && c.CachedInfo().NumPending == 0
	})
	time.Sleep(10 * time.Second) // what a minute's limit lets through at once

	of := []*process{server.process, worker, replayer}
	spent := func() (all []time.Duration) {
		for _, p := range of {
			all = append(all, cpu(t, p))
		}
		return all
	}
	before, looked, began := spent(), looks(), time.Now()
	time.Sleep(lasts)
	each := float64(looks()-looked) / time.Since(began).Seconds()
	var cores []float64
	for i, after := range spent() {
		cores = append(cores, (after-before[i]).Seconds()/time.Since(began).Seconds())
	}
	var at []time.Time
	for _, c := range f.upstream.Calls() {
		if c.At.After(began) {
			at = append(at, c.At)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	pause := time.Duration(0)
	for i := 1; i < len(at); i++ {
		pause = max(pause, at[i].Sub(at[i-1]))
	}
	t.Logf("%d letters due at %d/min: %.0f looks a second; of a core the server takes %.3f, the worker %.3f, the replayer %.3f; %d calls in %v, the longest pause between two %v",
		letters, perMinute, each, cores[0], cores[1], cores[2], len(at), lasts, pause.Round(time.Millisecond))
	if each >= 300 || cores[0] >= 0.25 {
		t.Errorf("%.0f looks a second, and %.2f of a core at the server", each, cores[0])
	}
	if gap := time.Minute / perMinute; pause > gap+time.Second || len(at) < perMinute*95/100 {
		t.Errorf("%d calls of %d, and none for %v", len(at), perMinute, pause)
	}
}

// cpu is how much a process has used up so far.
func cpu(t *testing.T, p *process) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if os.IsNotExist(err) {
		t.Skip("this system does not tell a process's CPU")
	}
	if err != nil {
		t.Fatal(err)
	}
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, field := range f[11:13] { // of itself, and of the kernel for it
		n, err := strconv.Atoi(string(field))
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
