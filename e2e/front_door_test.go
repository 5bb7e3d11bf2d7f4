package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/providers/providertest"
)

// TestTheFrontDoorUnderLoad has thousands wait at a worker's HTTP door: on
// streams of answers, in headers and bodies that never end, and with a large
// answer that they read byte by byte. It prints what others' requests take
// beside them, and the memory. Its short form has a few of each.
func TestTheFrontDoorUnderLoad(t *testing.T) {
	begin(t)
	streams, slow, requests := pick(40, 2000), pick(12, 500), pick(20, 500)
	large := []byte(`["` + strings.Repeat("0123456789abcdef", 4*mib/16) + `"]`)
	f := newFleet(t, func(r *http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		if strings.HasSuffix(r.URL.Path, "LARGE") {
			step.Body = large
		}
		return &step
	})
	f.env["FETCH_GATEWAY"], f.env["FETCH_GATEWAY_ADDR"] = "on", "127.0.0.1:0"
	f.env["GOMEMLIMIT"] = "256MiB" // the worker's own share included
	worker := f.worker()
	door := field(t, worker.says(t, `"serving"`), "gateway")
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	asked := 0
	ask := func(n int) (took []time.Duration) {
		for range n {
			asked++
			start := time.Now()
			res, err := client.Get(fmt.Sprintf("http://%s/v1/fmp/quote?symbol=N%d", door, asked))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d", res.StatusCode)
			}
			took = append(took, time.Since(start))
			time.Sleep(5 * time.Millisecond)
		}
		slices.Sort(took)
		return took
	}
	p99 := func(took []time.Duration) time.Duration {
		return took[len(took)-1-len(took)/100].Round(100 * time.Microsecond)
	}
	mid := func(took []time.Duration) time.Duration { return took[len(took)/2].Round(100 * time.Microsecond) }
	ask(requests / 4)
	alone := ask(requests)
	before := peak(t, worker)

	var open []net.Conn
	var reading sync.WaitGroup
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
		reading.Wait()
	}()
	dial := func(send string) net.Conn {
		c, err := net.Dial("tcp", door)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if _, err := io.WriteString(c, send); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i := range streams {
		c := dial(fmt.Sprintf("GET /v1/answers HTTP/1.1\r\nHost: %s\r\nFetch-Agent: agent-%d\r\n\r\n", door, i%200))
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
		if err != nil || !strings.Contains(line, "200") {
			t.Fatalf("stream %d: %q, %v", i, line, err)
		}
		_ = c.SetReadDeadline(time.Time{})
		reading.Go(func() { _, _ = io.Copy(io.Discard, c) })
	}
	for i := range slow {
		switch i % 3 {
		case 0: // a header that does not end
			c := dial("GET /v1/providers HTTP/1.1\r\nHost: " + door + "\r\nX-Slow: ")
			reading.Go(func() {
				for range 60 {
					if _, err := io.WriteString(c, "x"); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			})
		case 1: // a body that does not come
			dial("POST /v1/fmp/quote HTTP/1.1\r\nHost: " + door + "\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		case 2: // an answer of 4 MiB that is not read
			c := dial("GET /v1/fmp/quote?symbol=LARGE HTTP/1.1\r\nHost: " + door + "\r\n\r\n")
			if c, ok := c.(*net.TCPConn); ok {
				_ = c.SetReadBuffer(4 << 10)
			}
		}
	}
	beside := ask(requests)
	after := peak(t, worker)
	t.Logf("%d streams and %d slow clients: others' p50 and p99 %v %v alone, %v %v beside them; %d MiB, %d before",
		streams, slow, mid(alone), p99(alone), mid(beside), p99(beside), after, before)
	if after > 300 {
		t.Errorf("%d MiB, 300 are allowed", after)
	}
	if full && mid(beside) > 2*mid(alone)+time.Millisecond {
		t.Errorf("others' requests take %v, %v alone", mid(beside), mid(alone))
	}
	if worker.gone() {
		t.Error("the worker is dead")
	}
}
