package providers_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/call"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

const quote = `{"symbol":"AAPL"}`

func TestConditional(t *testing.T) {
	p, server := play(t, "fred", nil)
	planned := plan(t, p, "series", `{"series_id":"GDP"}`)
	first := p.Do(t.Context(), planned, providers.Options{})
	if first.LastModified == "" || !first.Cacheable {
		t.Fatalf("%+v", first)
	}
	server.Script(providertest.Step{Status: 304}, providertest.Step{Status: 304})
	again := p.Do(t.Context(), planned, providers.Options{ETag: `W/"1"`, LastModified: first.LastModified})
	if again.Class != wire.ClassOK || !again.NotModified || !again.Cacheable || again.HTTPStatus != 304 || len(again.Body) != 0 {
		t.Errorf("%+v", again)
	}
	asked := server.Calls()[1].Header
	if asked.Get("If-None-Match") != `W/"1"` || asked.Get("If-Modified-Since") != first.LastModified {
		t.Errorf("asked with %v", asked)
	}
	if r := p.Do(t.Context(), planned, providers.Options{}); r.Class != wire.ClassTransient || r.NotModified {
		t.Errorf("a 304 that nobody asked for: %s", r.Class)
	}
}

func TestNoStore(t *testing.T) {
	p, server := play(t, "fmp", nil)
	server.Script(providertest.Step{Status: 200, Header: http.Header{"Cache-Control": {"private, No-Store"}}, Body: []byte(`[1]`)})
	if r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{}); r.Class != wire.ClassOK || r.Cacheable {
		t.Errorf("%s, cacheable %v", r.Class, r.Cacheable)
	}
}

// Bytes are counted as they are sent, and bodies arrive as they are.
func TestWireBytes(t *testing.T) {
	p, server := play(t, "polygon", nil)
	large := server.Named("grouped_daily_large")
	planned := plan(t, p, "grouped_daily", `{"date":"2026-02-13"}`)
	packed := zip(large.Body)

	server.Script(
		providertest.Step{Status: 200, Body: large.Body}, // chunked, since its length is not told
		providertest.Step{Status: 200, Body: packed, Raw: true, Header: http.Header{"Content-Encoding": {"gzip"}, "Content-Length": {strconv.Itoa(len(packed))}}},
	)
	for _, want := range []int{len(large.Body), len(packed)} {
		r := p.Do(t.Context(), planned, providers.Options{})
		if r.Class != wire.ClassOK || !bytes.Equal(r.Body, large.Body) || r.WireBytes != int64(want) {
			t.Errorf("%s %s: %d bytes on the wire, want %d", r.Class, r.Detail, r.WireBytes, want)
		}
	}
}

func zip(body []byte) []byte {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write(body) // to memory
	_ = zw.Close()
	return b.Bytes()
}

// Bodies that break in every way are transient, and say so.
func TestBrokenBodies(t *testing.T) {
	p, server := play(t, "fmp", nil)
	packed := zip([]byte(`[{"symbol":"AAPL"}]`))
	gzipped := func(body []byte) providertest.Step {
		return providertest.Step{Status: 200, Raw: true, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: body}
	}
	corrupt := bytes.Clone(packed)
	corrupt[len(corrupt)-6] ^= 1
	for name, test := range map[string]struct {
		step      providertest.Step
		errorType string
	}{
		"empty":            {providertest.Step{Status: 200}, "odd"},
		"no content":       {providertest.Step{Status: 204}, "odd"},
		"shorter":          {providertest.Step{Status: 200, Header: http.Header{"Content-Length": {"100"}}, Body: []byte(`[1]`)}, "network"},
		"cut":              {providertest.Step{Status: 200, Body: bytes.Repeat([]byte(`[1]`), 4000), Cut: 3}, "network"},
		"cut at the start": {providertest.Step{Cut: -1}, "network"},
		"gzip shorter": {providertest.Step{
			Status: 200, Raw: true, Body: packed,
			Header: http.Header{"Content-Encoding": {"gzip"}, "Content-Length": {strconv.Itoa(len(packed) + 50)}},
		}, "network"},
		"gzip cut":        {gzipped(packed[:len(packed)-9]), "odd"},
		"gzip corrupt":    {gzipped(corrupt), "odd"},
		"no gzip":         {gzipped([]byte(`[1]`)), "odd"},
		"gzip of nothing": {gzipped(nil), "odd"},
		"brotli":          {providertest.Step{Status: 200, Header: http.Header{"Content-Encoding": {"br"}}, Body: []byte(`[1]`)}, "odd"},
	} {
		server.Script(test.step)
		r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
		if r.Class != wire.ClassTransient || r.ErrorType != test.errorType || !r.Sent || r.Detail == "" {
			t.Errorf("%s: %s %s %q, sent %v", name, r.Class, r.ErrorType, r.Detail, r.Sent)
		}
	}
	// An error is an error whatever became of its body.
	server.Script(providertest.Step{Status: 429, Header: http.Header{"Content-Length": {"100"}, "Retry-After": {"7"}}, Body: []byte(`{`)})
	if r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{}); r.Class != wire.ClassThrottled || r.RetryAfter != 7*time.Second {
		t.Errorf("429 with a broken body: %s %v", r.Class, r.RetryAfter)
	}
}

// A body past the limit is refused while it streams, and a bomb, which is
// small on the wire, takes no memory to find out.
func TestTooLarge(t *testing.T) {
	p, server := play(t, "fmp", map[string]string{"FMP_TIMEOUT_SECONDS": "60"})
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 80 { // MiB
		_, _ = zw.Write(zeros)
	}
	_ = zw.Close()
	server.Script(providertest.Step{Status: 200, Raw: true, Header: http.Header{"Content-Encoding": {"gzip"}}, Body: bomb.Bytes()})

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
	runtime.ReadMemStats(&after)
	if r.Class != wire.ClassPermanent || r.Code != fetchworker.CodeResponseTooLarge || !errors.Is(r.Err, call.ErrTooLarge) || len(r.Body) > 0 {
		t.Errorf("bomb: %s %s %v, %d bytes", r.Class, r.Code, r.Err, len(r.Body))
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 32<<20 {
		t.Errorf("the bomb of %d bytes took %d bytes of memory", bomb.Len(), taken)
	}

	// A length that is told is not even read.
	server.Script(providertest.Step{Status: 200, Cut: 1, Header: http.Header{"Content-Length": {strconv.Itoa(call.MaxBody + 1)}}, Body: []byte(`[1]`)})
	if r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{}); r.Code != fetchworker.CodeResponseTooLarge || r.WireBytes != 0 {
		t.Errorf("announced: %s, %d bytes read", r.Code, r.WireBytes)
	}
	// One that is not told is read to the limit and no further.
	server.Script(providertest.Step{Status: 200, Body: make([]byte, call.MaxBody+1)})
	if r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{}); r.Code != fetchworker.CodeResponseTooLarge || r.WireBytes != call.MaxBody+1 {
		t.Errorf("streamed: %s %s, %d bytes read", r.Code, r.Detail, r.WireBytes)
	}
}

// net/http asks again by itself when a reused connection breaks after the
// request was written. The provider would count two calls for one permit.
func TestNeverTwiceOnTheWire(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int32
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			served.Go(func() { // answers the first request, reads the second, hangs up
				defer func() { _ = conn.Close() }()
				r := bufio.NewReader(conn)
				for i := range 2 {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					seen.Add(1)
					if i == 0 {
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]")
					}
				}
			})
		}
	})
	p, _ := load(t, map[string]string{"FMP_API_KEY": key, "FMP_BASE_URL": "http://" + listener.Addr().String()}).Provider("fmp")
	planned := plan(t, p, "quote", quote)
	if r := p.Do(t.Context(), planned, providers.Options{}); r.Class != wire.ClassOK {
		t.Fatalf("%s %s", r.Class, r.Detail)
	}
	r := p.Do(t.Context(), planned, providers.Options{})
	if r.Class != wire.ClassTransient || !r.Sent || !errors.Is(r.Err, call.ErrRetried) {
		t.Errorf("%s, sent %v, %v", r.Class, r.Sent, r.Err)
	}
	if seen.Load() != 2 {
		t.Errorf("the server saw %d requests for 2 calls", seen.Load())
	}
	p.Close()
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	served.Wait()
}

// Timeouts are of the whole call, and told from other faults.
func TestTimeout(t *testing.T) {
	for name, script := range map[string]func(*providertest.Server){
		"late answer": func(s *providertest.Server) { s.SetLatency(time.Minute) },
		"no answer":   func(s *providertest.Server) { s.Script(providertest.Step{Latency: time.Hour, Cut: -1}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := providertest.Pipe("fred.test")
				defer server.Close()
				set := load(t, map[string]string{"FRED_API_KEY": key, "FRED_BASE_URL": "http://fred.test/fred"}, providers.WithDial(server.DialContext))
				defer set.Close()
				p, _ := set.Provider("fred")
				script(server)
				start := time.Now()
				r := p.Do(t.Context(), plan(t, p, "releases", ``), providers.Options{})
				if r.Class != wire.ClassTransient || r.ErrorType != "timeout" || !r.Sent || !errors.Is(r.Err, context.DeadlineExceeded) {
					t.Errorf("%s %s %v", r.Class, r.ErrorType, r.Err)
				}
				if r.Latency != 10*time.Second || !r.FetchedAt.Equal(start.Add(10*time.Second)) {
					t.Errorf("took %v, until %v", r.Latency, r.FetchedAt)
				}
			})
		})
	}
}

func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := providertest.Pipe("fred.test")
		defer server.Close()
		set := load(t, map[string]string{"FRED_API_KEY": key, "FRED_BASE_URL": "http://fred.test/fred"}, providers.WithDial(server.DialContext))
		defer set.Close()
		p, _ := set.Provider("fred")
		server.SetLatency(5 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		r := p.Do(ctx, plan(t, p, "releases", ``), providers.Options{})
		if r.Class != wire.ClassTransient || r.ErrorType != "network" || !errors.Is(r.Err, context.Canceled) || errors.Is(r.Err, context.DeadlineExceeded) || r.Latency != time.Second || !r.Sent {
			t.Errorf("%s %v after %v", r.Class, r.Err, r.Latency)
		}
	})
}

func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := providertest.Pipe("fmp.test")
		defer server.Close()
		set := load(t, map[string]string{"FMP_API_KEY": key, "FMP_BASE_URL": "http://fmp.test/api/v3"}, providers.WithDial(server.DialContext))
		defer set.Close()
		p, _ := set.Provider("fmp")
		at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
		for _, test := range []struct {
			header     http.Header
			retryAfter time.Duration
			remaining  int
			reset      time.Duration
		}{
			{http.Header{}, 0, -1, -1},
			{http.Header{"Retry-After": {"120"}}, 2 * time.Minute, -1, -1},
			{http.Header{"Retry-After": {at(90 * time.Second)}}, 90 * time.Second, -1, -1},
			{http.Header{"Retry-After": {"9999999999"}}, 15 * time.Minute, -1, -1},
			// A count is believed for the window that it is about: fmp's is 120/min.
			{http.Header{"X-Ratelimit-Limit": {"120"}, "X-Ratelimit-Remaining": {"3"}, "X-Ratelimit-Reset": {"30"}}, 30 * time.Second, 3, 30 * time.Second},
			{http.Header{"X-Ratelimit-Limit": {"5000"}, "X-Ratelimit-Remaining": {"3"}, "X-Ratelimit-Reset": {"30"}}, 30 * time.Second, -1, -1},
			{http.Header{"X-Ratelimit-Limit": {"120"}, "X-Ratelimit-Remaining": {"3"}, "X-Ratelimit-Reset": {"3000"}}, 15 * time.Minute, -1, -1},
			{http.Header{"X-Ratelimit-Remaining": {"3"}, "X-Ratelimit-Reset": {"30"}}, 30 * time.Second, -1, -1},
		} {
			server.Script(providertest.Step{Status: 429, Header: test.header, Body: []byte(`{}`)})
			r := p.Do(t.Context(), plan(t, p, "quote", quote), providers.Options{})
			if r.Class != wire.ClassThrottled || r.RetryAfter != test.retryAfter || r.Remaining != test.remaining || r.Reset != test.reset {
				t.Errorf("%v: %s, wait %v, remaining %d, reset %v", test.header, r.Class, r.RetryAfter, r.Remaining, r.Reset)
			}
		}
	})
}

// A provider can be called from many goroutines at once.
func TestConcurrent(t *testing.T) {
	p, server := play(t, "newsapi", nil)
	planned := plan(t, p, "headlines", `{"q":"ports"}`)
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for range 10 {
				if r := p.Do(t.Context(), planned, providers.Options{BeforeWrite: func() error { return nil }}); r.Class != wire.ClassOK {
					t.Errorf("%s %s", r.Class, r.Detail)
				}
			}
		})
	}
	group.Wait()
	if n := len(server.Calls()); n != 320 {
		t.Errorf("%d calls arrived, want 320", n)
	}
}
