package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
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

	crowd := launch(t, "the crowd", "/usr/bin/env", nil, "nice", "-n", "19", os.Args[0], crowdRole, door, strconv.Itoa(streams), strconv.Itoa(slow))
	until(t, 2*time.Minute, "all stand at the door", func() bool { return crowd.log.find(allStand) != "" || crowd.gone() })
	if crowd.gone() {
		t.Fatalf("the crowd is gone: %s", crowd.log.tail(5))
	}
	ask(requests / 4)
	beside := ask(requests)
	after := peak(t, worker)
	t.Logf("%d streams and %d slow clients: others' p50 and p99 %v %v alone, %v %v beside them; %d MiB, %d before",
		streams, slow, mid(alone), p99(alone), mid(beside), p99(beside), after, before)
	if after > 300 {
		t.Errorf("%d MiB, 300 are allowed", after)
	}
	if full && (mid(beside) > 2*mid(alone)+time.Millisecond || p99(beside) > 2*p99(alone)+5*time.Millisecond) {
		t.Errorf("others' requests take %v and %v at p99, %v and %v alone", mid(beside), p99(beside), mid(alone), p99(alone))
	}
	if lost := worker.log.find("connection to NATS lost"); lost != "" {
		t.Errorf("the server had too much for it: %s", lost)
	}
	if worker.gone() {
		t.Error("the worker is dead")
	}
}

// crowdRole is the argument that makes the test binary a crowd at an HTTP door,
// and allStand what it says when all its connections are open.
const (
	crowdRole = "stand-at-the-door"
	allStand  = "all stand at the door"
)

// standAtTheDoor opens so many streams of answers and so many slow requests, a
// third of each kind, says so, and stays. It is a process of its own, so that
// what its thousands cost is not taken from whoever is measured.
func standAtTheDoor(args []string) {
	door := args[0]
	dial := func(send string) net.Conn {
		c, err := net.Dial("tcp", door)
		if err != nil {
			panic(err)
		}
		if _, err := io.WriteString(c, send); err != nil {
			panic(err)
		}
		return c
	}
	var open []net.Conn // one that nobody holds is closed by the collector
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		return n
	}
	answered := func(c net.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		line, err := bufio.NewReaderSize(c, 16).ReadString('\n')
		if err != nil || !strings.Contains(line, "200") {
			panic(fmt.Sprintf("%q, %v", line, err))
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	for i := range number(args[1]) {
		c := dial(fmt.Sprintf("GET /v1/answers HTTP/1.1\r\nHost: %s\r\nFetch-Agent: agent-%d\r\n\r\n", door, i%200))
		answered(c)
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
	// Answers of 4 MiB that are not read: they are made before anybody is measured.
	slow := number(args[2])
	for i := range slow {
		if i%3 == 2 {
			c := dial("GET /v1/fmp/quote?symbol=LARGE HTTP/1.1\r\nHost: " + door + "\r\n\r\n")
			if c, ok := c.(*net.TCPConn); ok {
				_ = c.SetReadBuffer(4 << 10)
			}
			open = append(open, c)
		}
	}
	for _, c := range open {
		answered(c)
	}
	for i := range slow {
		switch i % 3 {
		case 0: // a header that does not end, again and again
			go func() {
				for {
					c := dial("GET /v1/providers HTTP/1.1\r\nHost: " + door + "\r\nX-Slow: ")
					for {
						if _, err := io.WriteString(c, "x"); err != nil {
							break
						}
						time.Sleep(time.Second)
					}
					_ = c.Close()
				}
			}()
		case 1: // a body that does not come
			open = append(open, dial("POST /v1/fmp/quote HTTP/1.1\r\nHost: "+door+"\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"))
		}
	}
	fmt.Println(allStand)
	time.Sleep(time.Hour) // it is killed before
	runtime.KeepAlive(open)
	panic("nobody has ended the crowd")
}
