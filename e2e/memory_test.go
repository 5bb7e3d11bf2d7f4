package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dlq/dlqtest"
	"fetchworker/internal/providers/providertest"
)

const mib = 1 << 20

// TestManyLargeAnswersAtOnceFitIntoMemory has a hundred calls in flight whose
// answers of 8 MiB all come in the same moment.
func TestManyLargeAnswersAtOnceFitIntoMemory(t *testing.T) {
	begin(t)
	if strings.Contains(os.Getenv("GOFLAGS"), "-race") {
		t.Skip("the race detector takes as much memory again, many times over")
	}
	answers, bound := pick(25, 100), pick(400, 1229)
	large := []byte("[\"" + strings.Repeat("0123456789abcdef", 8*mib/16-1) + "\"]")
	sum := sha256.Sum256(large)
	var release atomic.Int64 // Unix nanoseconds: all at the same moment, when every call has arrived
	f := newFleet(t, func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, "")
		step.Body = large
		step.Latency = time.Until(time.Unix(0, release.Load()))
		return &step
	})
	f.env["FETCH_CONCURRENCY"], f.env["FMP_TIMEOUT_SECONDS"] = fmt.Sprint(answers), "60"
	if !full {
		f.env["GOMEMLIMIT"] = "192MiB" // a quarter of the worker's own, as the answers are
	}
	worker := f.worker()
	before := peak(t, worker)
	start := time.Now()
	release.Store(start.Add(6 * time.Second).UnixNano())
	var ids []fetchworker.Identity
	for i := range answers {
		ids = append(ids, f.quote(fmt.Sprint("agent-", i%50), fmt.Sprint("S", i)))
	}
	for _, id := range ids {
		a := f.final(id, time.Minute)
		if a.Status != fetchworker.StatusOK || a.Claim == nil || a.Claim.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: %s", id, dlqtest.Describe(a))
		}
	}
	f.settled(10 * time.Second)
	if calls := f.upstream.Calls(); calls[len(calls)-1].At.UnixNano() > release.Load() {
		t.Error("they were not all in flight at the same moment")
	}
	after := peak(t, worker)
	t.Logf("%d answers of 8 MiB: %d MiB, %d before, all stored after %v", answers, after, before, time.Since(start))
	if after > bound {
		t.Errorf("%d MiB, %d are allowed", after, bound)
	}
}

// catalogueOfFive are four providers of large answers and one of small ones,
// without limits.
func catalogueOfFive(t *testing.T, url string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("providers:\n")
	for _, name := range []string{"one", "two", "three", "four", "small"} {
		fmt.Fprintf(&b, "  %s: {base_url: %s/%s, timeout: 20s, auth: none, operations: {page: {path: '/{symbol}', params: {symbol: {required: true}}}}}\n", name, url, name)
	}
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// largeSteps are answers of 60 MiB in every way that they come: packed to
// little, packed to much, and as they are.
func largeSteps(t *testing.T, variants int) []*providertest.Step {
	t.Helper()
	var steps []*providertest.Step
	for v := range variants {
		row := fmt.Sprintf(`{"symbol":"S%d","price":%d.25,"volume":1234567},`, v, v)
		body := []byte("[" + strings.Repeat(row, 60*mib/len(row)))
		if v%4 == 2 { // digits that do not repeat
			for i := range len(body) / 8 {
				body[8*i+7] = "0123456789abcdef"[rand.IntN(16)]
			}
			body = []byte(`["` + strings.NewReplacer(`"`, "'", `\`, "/").Replace(string(body)) + `"]`)
		} else {
			body[len(body)-1] = ']'
		}
		step := providertest.JSON(http.StatusOK, "")
		step.Body, step.Raw = body, true
		if v%4 != 3 {
			var packed bytes.Buffer
			zw, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
			if _, err := zw.Write(body); err != nil {
				t.Fatal(err)
			}
			if err := zw.Close(); err != nil {
				t.Fatal(err)
			}
			step.Header.Set("Content-Encoding", "gzip")
			step.Body = packed.Bytes()
		}
		steps = append(steps, &step)
	}
	return steps
}

// TestLargeAnswersTakeTurnsBesideSmallOnes has four providers send answers of
// 60 MiB at once to a worker with the memory that compose gives it. It lives,
// within its memory, and small answers are as quick as before, also those of a
// provider that sends large ones. FETCH_LARGE is how many; FETCH_CGROUP a folder
// of a cgroup whose limit the worker has instead of GOMEMLIMIT.
func TestLargeAnswersTakeTurnsBesideSmallOnes(t *testing.T) {
	begin(t)
	if strings.Contains(os.Getenv("GOFLAGS"), "-race") {
		t.Skip("the race detector takes as much memory again, many times over")
	}
	answers, bound := pick(6, 200), 400
	if only, err := strconv.Atoi(os.Getenv("FETCH_LARGE")); err == nil {
		answers = only
	}
	steps := largeSteps(t, pick(3, 16))
	f := newFleet(t, func(r *http.Request) *providertest.Step {
		n, err := strconv.Atoi(path.Base(r.URL.Path))
		if err != nil {
			step := providertest.JSON(http.StatusOK, `{"small":true}`)
			return &step
		}
		return steps[(n/10+n%10)%len(steps)]
	})
	f.env["FETCH_CATALOG"], f.env["GOMEMLIMIT"] = catalogueOfFive(t, f.upstream.URL()), "400MiB"
	if f.cgroup = os.Getenv("FETCH_CGROUP"); f.cgroup != "" {
		delete(f.env, "GOMEMLIMIT") // it finds out by itself
	}
	worker := f.worker()

	small := func(n int, provider string) *laps {
		took := new(laps)
		agent, err := f.agent("small-" + provider)
		if err != nil {
			t.Error(err)
			return took
		}
		for i := range n {
			symbol := fmt.Sprintf("%s-%d-%d", provider, n, i)
			if err := took.fetch(t.Context(), agent, fetchworker.Request{Provider: provider, Operation: "page", Params: fmt.Appendf(nil, `{"symbol":%q}`, symbol)}, symbol); err != nil {
				t.Errorf("small: %v", err)
				return took
			}
			time.Sleep(20 * time.Millisecond)
		}
		return took
	}
	alone := small(pick(50, 200), "small")
	before := peak(t, worker)

	start := time.Now()
	var ids []fetchworker.Identity
	for i := range answers {
		provider := []string{"one", "two", "three", "four"}[i%4]
		r := fetchworker.Request{Provider: provider, Operation: "page", Agent: "large", ID: fmt.Sprint("L", i), Params: fmt.Appendf(nil, `{"symbol":"%d%d"}`, i/4, i%4)}
		agent, err := f.agent(r.Agent)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := agent.Submit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.Identity())
	}
	var beside sync.WaitGroup
	others := map[string]*laps{}
	var mu sync.Mutex
	for _, provider := range []string{"small", "one"} {
		beside.Go(func() {
			took := small(pick(60, 1000), provider)
			mu.Lock()
			others[provider] = took
			mu.Unlock()
		})
	}
	for _, id := range ids {
		until(t, pick(2*time.Minute, 15*time.Minute), id.ID+" is answered", func() bool {
			all := f.answers.Answers(id)
			return len(all) > 0 && all[len(all)-1].Status == fetchworker.StatusOK && all[len(all)-1].Claim != nil
		})
	}
	took := time.Since(start)
	beside.Wait()
	after := peak(t, worker)
	t.Logf("%d answers of 60 MiB in %v: %d MiB, %d before", answers, took.Round(time.Millisecond), after, before)
	t.Logf("small answers: %v alone, %v beside large ones, %v of the same provider", alone, others["small"], others["one"])
	t.Logf("alone:%s\nbeside:%s\nof the same:%s", alone.where(f), others["small"].where(f), others["one"].where(f))
	if after > bound {
		t.Errorf("%d MiB, %d are allowed", after, bound)
	}
	if worker.gone() {
		t.Error("the worker is dead")
	}
	for _, name := range []string{"memory.limit_in_bytes", "memory.max", "memory.max_usage_in_bytes", "memory.peak", "memory.failcnt"} {
		if told, err := os.ReadFile(filepath.Join(f.cgroup, name)); err == nil && f.cgroup != "" {
			t.Logf("of its cgroup: %s %s", name, bytes.TrimSpace(told))
		}
	}
}

// TestABombIsRefusedAtItsPackedSize sends a gibibyte in a mebibyte.
func TestABombIsRefusedAtItsPackedSize(t *testing.T) {
	begin(t)
	packed := bomb(t, 1<<30)
	f := newFleet(t, func(r *http.Request) *providertest.Step {
		if path.Base(r.URL.Path) != "BOMB" {
			return well(0)(r)
		}
		step := providertest.JSON(http.StatusOK, "")
		step.Header.Set("Content-Encoding", "gzip")
		step.Body, step.Raw = packed, true
		return &step
	})
	f.env["FMP_TIMEOUT_SECONDS"] = "30"
	worker := f.worker()
	f.final(f.quote("alice", "AAPL"), 10*time.Second)
	before := peak(t, worker)
	a := f.final(f.quote("alice", "BOMB"), 40*time.Second)
	if a.Problem == nil || a.Problem.Code() != fetchworker.CodeResponseTooLarge {
		t.Errorf("%s", dlqtest.Describe(a))
	}
	cost := peak(t, worker) - before
	t.Logf("%d KiB on the wire cost %d MiB", len(packed)>>10, cost)
	if cost >= 100 {
		t.Errorf("it cost %d MiB", cost)
	}
}

// bomb is so many zeros, packed: one member again and again, which is a valid
// file and takes no time to make.
func bomb(t *testing.T, size int) []byte {
	t.Helper()
	var member bytes.Buffer
	zw := gzip.NewWriter(&member)
	if _, err := zw.Write(make([]byte, mib)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(member.Bytes(), size/mib)
}

// peak is the most memory that a process ever had, in MiB.
func peak(t *testing.T, p *process) int { return ofStatus(t, p, "VmHWM:") >> 10 }

// resident is what it has now, in KiB.
func resident(t *testing.T, p *process) int { return ofStatus(t, p, "VmRSS:") }

func ofStatus(t *testing.T, p *process, name string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if os.IsNotExist(err) {
		t.Skip("this system does not tell a process's memory")
	}
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), name)
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
