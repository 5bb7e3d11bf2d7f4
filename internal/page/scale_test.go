package page_test

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/page"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// The first paint waits for no count: with a million letters it comes as soon as
// with a thousand. FETCH_TEST_MESSAGES says how many; 5,000 by default.
func TestTheFirstPaintWaitsForNoCount(t *testing.T) {
	n := 5_000
	if many, err := strconv.Atoi(os.Getenv("FETCH_TEST_MESSAGES")); err == nil {
		n = many
	}
	r := newRig(t, "")
	for i := range n {
		r.store(letter([]string{"alice", "bob", "carol"}[i%3], "q-"+strconv.Itoa(i), "timeout").DeadLetter())
		if i%10 == 0 {
			l := letter("alice", "r-"+strconv.Itoa(i), "no such symbol")
			l.HTTPStatus = 404
			r.store(l.ReviewItem())
		}
	}
	r.stored()
	// A page that has seen nothing yet.
	desk, err := operate.Open(t.Context(), r.NC)
	if err != nil {
		t.Fatal(err)
	}
	f, err := desk.Fleet(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	shown, err := page.Show(t.Context(), r.NC, page.Options{Addr: "127.0.0.1:0", By: "ann", Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shown.Close() }()
	r.URL = shown.URL()
	for _, path := range []string{"/", "/letters", "/review", "/letters?agent=alice", "/letters?class=permanent", "/review?http=404", "/waiting?agent=bob"} {
		began := time.Now()
		code, _, _ := r.get(path)
		took := time.Since(began)
		t.Logf("%d letters, %d items: %s in %v", n, n/10, path, took.Round(time.Millisecond))
		if code != 200 || took > 3*time.Second { // a stalled machine takes longer than the 300 ms that it needs, and a filter's second
			t.Errorf("%s: %d after %v", path, code, took)
		}
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) { // the count comes when it comes
		if _, text, _ := r.get("/letters"); strings.Contains(strings.ReplaceAll(text, "\u202f", ""), strconv.Itoa(n)+" match") {
			break
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatal("nobody has counted")
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("the heap grew from %d to %d MiB, the server's own included", before.HeapAlloc>>20, after.HeapAlloc>>20)
	if r.count(wire.StreamDLQ) != n {
		t.Error("looking has changed something")
	}
}
