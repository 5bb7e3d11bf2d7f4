package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
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
	const letters, perMinute, lasts = 10_000, 120, 90 * time.Second
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
	calls, late := lateness(f, perMinute)
	t.Logf("%d letters due at %d/min: %.0f looks a second; of a core the server takes %.3f, the worker %.3f, the replayer %.3f; %d calls in all, the latest %v after there was room",
		letters, perMinute, each, cores[0], cores[1], cores[2], calls, late.Round(time.Millisecond))
	if each >= 300 || cores[0] >= 0.25 {
		t.Errorf("%.0f looks a second, and %.2f of a core at the server", each, cores[0])
	}
	if late > time.Second || calls < perMinute {
		t.Errorf("%d calls, the latest %v after there was room", calls, late)
	}
}

// lateness is how long after there was room for it the latest call of a replay
// came, by the rules of docs/permits.md: when fewer than three quarters of the
// limit are used in its window, or when the pacer's time for it has come.
func lateness(f *fleet, perMinute int) (calls int, late time.Duration) {
	gap := ledger.NewShapes(ledger.Limits{{N: perMinute, Per: time.Minute}})[0].Gap
	window, leaves := time.Duration(perMinute)*gap, perMinute*3/4
	var at []time.Time
	for _, c := range f.upstream.Calls() {
		at = append(at, c.At)
	}
	slices.SortFunc(at, time.Time.Compare)
	var paced time.Time
	for i, now := range at {
		if i > 0 {
			room := paced
			if i < leaves {
				room = at[0]
			} else if free := at[i-leaves].Add(window); free.Before(room) {
				room = free
			}
			if room.Before(at[i-1]) {
				room = at[i-1]
			}
			late = max(late, now.Sub(room))
		}
		if behind := now.Add(-time.Second); paced.Before(behind) {
			paced = behind
		}
		paced = paced.Add(gap)
	}
	return len(at), late
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
