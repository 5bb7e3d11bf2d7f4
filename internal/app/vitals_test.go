package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/broker/brokertest"

	"github.com/prometheus/client_golang/prometheus"
)

func TestAProcessIsSeenFromItsFirstMoment(t *testing.T) {
	registry := prometheus.NewRegistry()
	v := app.NewVitals(registry)
	l, err := app.Listen("127.0.0.1:0", registry, v.Ready, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	get := func(path string) (int, string) {
		t.Helper()
		res, err := getURL(t, "http://"+l.Addr()+path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	expect := func(ready, connected int, says string) {
		t.Helper()
		if status, text := get("/healthz"); status != 200 {
			t.Errorf("healthz: %d %s", status, text)
		}
		status, text := get("/readyz")
		if (status == 200) != (ready == 1) || !strings.Contains(text, says) {
			t.Errorf("readyz: %d %s", status, text)
		}
		_, metrics := get("/metrics")
		for _, want := range []string{fmt.Sprintf("fetch_ready %d\n", ready), fmt.Sprintf("fetch_nats_connected %d\n", connected)} {
			if !strings.Contains(metrics, want) {
				t.Errorf("no %q", want)
			}
		}
	}
	expect(0, 0, "starting")
	b := brokertest.Start(t)
	v.Joined(b.NC)
	wait := func() { time.Sleep(1100 * time.Millisecond) } // a verdict is remembered for a second
	wait()
	expect(0, 1, "the streams")
	v.Serves(func(context.Context) error { return nil })
	expect(1, 1, "ready")
	b.Stop()
	wait()
	expect(0, 0, "not connected")
	for path, want := range map[string]string{"/": "/metrics", "/nothing": "404"} {
		if status, text := get(path); !strings.Contains(text, want) || strings.Contains(text, "operators") || (status == 200) != (path == "/") {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	host, _, _ := strings.Cut(l.Addr(), ":")
	for at, want := range map[string]string{"127.0.0.1:8090": "127.0.0.1:8090", "[::]:8090": host + ":8090", "0.0.0.0:8090": host + ":8090", "[::1]:8090": "[::1]:8090"} {
		l.Shows(at)
		if _, text := get("/"); !strings.Contains(text, `href="http://`+want+`/"`) {
			t.Errorf("the operators' page at %s: %s", at, text)
		}
	}
}

func TestAVerdictIsRememberedForASecond(t *testing.T) {
	b := brokertest.Start(t)
	v := app.NewVitals(prometheus.NewRegistry())
	v.Joined(b.NC)
	var looks atomic.Int32
	v.Serves(func(context.Context) error { looks.Add(1); return errors.New("no") })
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 100 {
				_ = v.Ready(t.Context())
			}
		})
	}
	all.Wait()
	if n := looks.Load(); n > 3 {
		t.Errorf("%d looks", n)
	}
}

func TestProfilesAreForThisMachine(t *testing.T) {
	for value, good := range map[string]bool{"on": true, "off": true, "127.0.0.1:6060": true, "[::1]:0": true, "0.0.0.0:6060": false, ":6060": false, "maybe": false} {
		if _, err := app.Load(env("FETCH_PPROF", value)); (err == nil) != good {
			t.Errorf("FETCH_PPROF=%s: %v", value, err)
		}
	}
	for _, addr := range []string{"0.0.0.0:8080", ":8080", "10.0.0.1:8080", "off"} {
		if _, err := app.Load(env("FETCH_PPROF", "on", "FETCH_HTTP_ADDR", addr)); err == nil || !strings.Contains(err.Error(), "FETCH_PPROF") {
			t.Errorf("profiles on %s: %v", addr, err)
		}
		if _, err := app.Load(env("FETCH_PPROF", "127.0.0.1:6060", "FETCH_HTTP_ADDR", addr)); err != nil {
			t.Errorf("profiles apart from %s: %v", addr, err)
		}
	}
	l, err := app.Listen("127.0.0.1:0", prometheus.NewRegistry(), func(context.Context) error { return nil }, "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for addr, want := range map[string]int{l.Addr(): 404, l.Profiles(): 200} {
		res, err := getURL(t, "http://"+addr+"/debug/pprof/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != want {
			t.Errorf("%s: %d, want %d", addr, res.StatusCode, want)
		}
	}
}

func getURL(t *testing.T, url string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return transport.RoundTrip(req)
}

// A worker whose connection for large bodies is away alone is not ready, and
// says which it is.
func TestASecondConnectionThatIsAwayIsNamed(t *testing.T) {
	b := brokertest.Start(t)
	apart := b.Connect(t)
	ready := app.All(app.Connected(b.NC, "the rest"), app.Connected(apart, "large bodies"))
	if err := ready(t.Context()); err != nil {
		t.Errorf("both stand: %v", err)
	}
	apart.Close()
	if err := ready(t.Context()); err == nil || !strings.Contains(err.Error(), "large bodies") {
		t.Errorf("one is away: %v", err)
	}
}
