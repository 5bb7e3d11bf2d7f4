package call_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker/internal/memory"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/wire"
)

// large is a body that needs room, as a server may send it.
var large = `["` + strings.Repeat("0123456789abcdef", 3<<20/16) + `"]`

func sendLarge(form string) http.HandlerFunc {
	var packed, noise bytes.Buffer
	zw := gzip.NewWriter(&packed)
	_, _ = io.WriteString(zw, large)
	_ = zw.Close()
	zw, _ = gzip.NewWriterLevel(&noise, gzip.NoCompression)
	_, _ = io.WriteString(zw, large)
	_ = zw.Close()
	return func(w http.ResponseWriter, _ *http.Request) {
		switch form {
		case "plain":
			w.Header().Set("Content-Length", fmt.Sprint(len(large)))
			_, _ = io.WriteString(w, large)
		case "of no told length":
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, large)
		case "packed to little":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed.Bytes())
		case "packed to much":
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(noise.Bytes())
		case "small":
			_, _ = io.WriteString(w, `{"small":true}`)
		}
	}
}

// A large body waits for room, in whatever form it comes, and that is no time
// of the provider's; a small one does not wait. What has wholly come says so.
func TestALargeBodyWaitsForRoom(t *testing.T) {
	for form, comes := range map[string]bool{"plain": false, "of no told length": false, "packed to little": true, "packed to much": false, "small": false} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			var wrong []string
			// A machine with other work to do is given longer for all of it.
			for timeout := 400 * time.Millisecond; timeout < 10*time.Second; timeout *= 4 {
				if wrong = waitsForRoom(t, form, comes, timeout); len(wrong) == 0 {
					return
				}
				t.Logf("with %v: %q", timeout, wrong)
			}
			t.Error(strings.Join(wrong, "\n"))
		})
	}
}

// waitsForRoom has room for a body after two timeouts, and says what is wrong.
func waitsForRoom(t *testing.T, form string, comes bool, timeout time.Duration) (wrong []string) {
	t.Helper()
	says := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	server := httptest.NewServer(sendLarge(form))
	defer server.Close()
	c, planned := callerBy(t, server.URL, nil, timeout)
	budget := memory.New(8 << 20)
	c.Within(budget)
	room, err := budget.Reserve(t.Context(), 7<<20)
	if err != nil {
		t.Fatal(err)
	}
	var waits, came atomic.Int64
	start := time.Now()
	time.AfterFunc(2*timeout, room.Close)
	r := c.Do(t.Context(), planned, call.Options{Wait: func(c bool, wait func() error) error {
		waits.Add(1)
		if c {
			came.Add(1)
		}
		return wait()
	}})
	took := time.Since(start)
	if r.Class != wire.ClassOK || r.Latency > timeout {
		says("%s after %v of %v: %s", r.Class, r.Latency, took, r.Detail)
	}
	if form == "small" {
		if took > timeout || waits.Load() > 0 {
			says("a small one took %v and %d waits", took, waits.Load())
		}
		return wrong
	}
	if took < 2*timeout || waits.Load() == 0 || string(r.Body) != large {
		says("%d bytes after %v, %d waits", len(r.Body), took, waits.Load())
	}
	if first := came.Load() == waits.Load(); first != comes {
		says("its connection was free at %d of %d waits", came.Load(), waits.Load())
	}
	runtime.KeepAlive(r)
	return wrong
}

// That a body is unpacked twice and looked through is no time of the provider's.
func TestToUnpackIsNoTimeOfTheProviders(t *testing.T) {
	var packed bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	digits, rng := make([]byte, 16<<20), rand.New(rand.NewPCG(1, 2))
	for i := range digits {
		digits[i] = "0123456789"[rng.IntN(10)]
	}
	_, _ = zw.Write(slices.Concat([]byte(`["`), digits, []byte(`"]`)))
	_ = zw.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}))
	defer server.Close()
	c, planned := callerBy(t, server.URL, nil, time.Minute)
	c.Within(memory.New(200 << 20))
	// Where a machine has much else to do, what comes waits for its turn too, now
	// and then: one time of ten that says so is enough, for each would say
	// otherwise if to unpack were counted.
	for try := range 10 {
		start := time.Now()
		r := c.Do(t.Context(), planned, call.Options{})
		took := time.Since(start)
		if r.Class != wire.ClassOK {
			t.Fatalf("%s: %s", r.Class, r.Detail)
		}
		if r.Latency <= took/4 {
			return
		}
		t.Logf("%d: %v of %v are the provider's", try, r.Latency, took)
	}
	t.Error("most of the time is the provider's")
}

// A worker that is made to end does not wait for room, and a provider that
// sends too slowly has its time, with and without a wait.
func TestWaitsForRoomEnd(t *testing.T) {
	server := httptest.NewServer(sendLarge("plain"))
	defer server.Close()
	c, planned := caller(t, server.URL)
	budget := memory.New(8 << 20)
	c.Within(budget)
	room, err := budget.Reserve(t.Context(), 7<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer room.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := c.Do(ctx, planned, call.Options{})
	if r.Class != wire.ClassTransient || !errors.Is(r.Err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", r.Class, r.Err)
	}
}

// A provider that goes silent in the middle of a large body has the rest of
// its time after the wait, and no more.
func TestTimeGoesOnAfterAWaitForRoom(t *testing.T) {
	const timeout = 200 * time.Millisecond
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(large)))
		_, _ = io.WriteString(w, large[:2<<20])
		<-over
	}))
	defer server.Close()
	defer close(over)
	c, planned := callerBy(t, server.URL, nil, timeout)
	budget := memory.New(8 << 20)
	c.Within(budget)
	room, err := budget.Reserve(t.Context(), 7<<20)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*timeout, room.Close)
	start := time.Now()
	r := c.Do(t.Context(), planned, call.Options{})
	took := time.Since(start)
	if r.ErrorType != "timeout" || took < 2*timeout || took > 20*timeout {
		t.Errorf("%s %s after %v: %s", r.Class, r.ErrorType, took, r.Detail)
	}
}

// A body that is neither light nor large is looked through when it is its turn,
// and keeps its slot until then: so those who wait are bounded. It waits for
// nobody's large one, and nobody light waits for it. It is looked at once, in
// pieces, as a large one is.
func TestABodyBetweenHasItsTurn(t *testing.T) {
	between := `["` + strings.Repeat("0123456789abcdef", 300<<10/16) + `"]`
	for body, want := range map[string]struct{ waits, whole int64 }{
		`{"light":true}`: {0, 0},
		between:          {1, 0},
		large:            {1, 1},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		t.Cleanup(server.Close)
		c, planned := callerBy(t, server.URL, nil, 30*time.Second)
		budget := memory.New(128 << 20)
		c.Within(budget)
		others := map[int64]func(context.Context) (func(), error){0: budget.Turn, 1: budget.LesserTurn}
		for { // all turns of the other kind are taken
			soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := others[want.whole](soon)
			cancel()
			if err != nil {
				break
			}
		}
		var waits, whole int64
		r := c.Do(t.Context(), planned, call.Options{Wait: func(came bool, wait func() error) error {
			waits++
			if came {
				whole++
			}
			return wait()
		}})
		if r.Class != wire.ClassOK || waits != want.waits || whole != want.whole {
			t.Errorf("of %d bytes: %s %s, %d waits, %d of them without its slot", len(body), r.Class, r.Detail, waits, whole)
		}
		sum := ""
		if want.waits > 0 {
			sum = fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
		}
		if r.SHA256 != sum {
			t.Errorf("of %d bytes: sum %q, want %q", len(body), r.SHA256, sum)
		}
	}
}

// One pass over a large body tells its sum and whether it is JSON, in whatever
// form it comes; of one that held the key the sum would be of what nobody gets.
func TestALargeBodyIsLookedAtOnce(t *testing.T) {
	for form := range map[string]bool{"plain": false, "of no told length": false, "packed to little": true, "packed to much": false, "small": false} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(sendLarge(form))
			defer server.Close()
			c, planned := callerBy(t, server.URL, nil, 10*time.Second)
			r := c.Do(t.Context(), planned, call.Options{})
			want := ""
			if form != "small" {
				want = fmt.Sprintf("%x", sha256.Sum256([]byte(large)))
			}
			if r.Class != wire.ClassOK || r.SHA256 != want {
				t.Errorf("%s %s: sum %q, want %q", r.Class, r.Detail, r.SHA256, want)
			}
		})
	}
	// The fault is behind the first megabytes, where only the pass can see it.
	for name, tail := range map[string]string{"broken": `"}`, "goes on": `"] []`, "breaks off": "", "holds the key": `","` + "secret-key" + `"]`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := strings.TrimSuffix(large, `"]`) + tail
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				_, _ = io.WriteString(w, body)
			}))
			defer server.Close()
			c, planned := callerBy(t, server.URL, nil, 10*time.Second)
			r := c.Do(t.Context(), planned, call.Options{})
			if name == "holds the key" {
				if r.Class != wire.ClassOK || !r.Redacted || r.SHA256 != "" || bytes.Contains(r.Body, []byte("secret-key")) {
					t.Errorf("%s %s: redacted %v, sum %q", r.Class, r.Detail, r.Redacted, r.SHA256)
				}
				return
			}
			if r.Class != wire.ClassTransient || r.ErrorType != "odd" {
				t.Errorf("%s %s %s", r.Class, r.ErrorType, r.Detail)
			}
		})
	}
}
