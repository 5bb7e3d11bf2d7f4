package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
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
func peak(t *testing.T, p *process) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if os.IsNotExist(err) {
		t.Skip("this system does not tell a process's peak memory")
	}
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
