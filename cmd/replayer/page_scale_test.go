package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// shown is a page in a process of its own.
type shown struct {
	t      *testing.T
	url    string
	pid    int
	client *http.Client
	each   time.Duration // between two looks, where something is waited for
}

func showPage(t *testing.T, server string) *shown {
	t.Helper()
	cmd := command(t, server, "page")
	cmd.Env = append(cmd.Env, "FETCH_PAGE_ADDR=127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	s := &shown{
		t: t, url: strings.TrimSpace(line[strings.Index(line, "http"):]), pid: cmd.Process.Pid, each: 50 * time.Millisecond,
		client: &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		_ = cmd.Wait() // it was told to end
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the page ended with %d", code)
		}
	})
	return s
}

func (s *shown) read(answer *http.Response, err error) string {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || answer.StatusCode >= 400 {
		s.t.Fatalf("%d %v %s", answer.StatusCode, err, body)
	}
	return string(body) + answer.Header.Get("Location")
}

func (s *shown) get(path string) string {
	s.t.Helper()
	return s.read(s.client.Get(s.url + path))
}

func (s *shown) post(path string, pairs ...string) string {
	s.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	q, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("Sec-Fetch-Site", "same-origin")
	return s.read(s.client.Do(q))
}

// until waits until a view says something.
func (s *shown) until(within time.Duration, path, text string) {
	s.t.Helper()
	var body string
	for began := time.Now(); time.Since(began) < within; time.Sleep(s.each) {
		if body = markup.ReplaceAllString(strings.ReplaceAll(s.get(path), "\u202f", ""), ""); strings.Contains(body, text) {
			return
		}
	}
	s.t.Fatalf("%s does not say %q: %s", path, text, body)
}

var markup = regexp.MustCompile(`<[^>]*>`)

var didOf = regexp.MustCompile(`<b class="n">([0-9\x{202f}]+)</b> of`)

// did is how many an act has done so far.
func (s *shown) did(path string) (n int) {
	s.t.Helper()
	if found := didOf.FindStringSubmatch(s.get(path)); found != nil {
		n, _ = strconv.Atoi(strings.ReplaceAll(found[1], "\u202f", ""))
	}
	return n
}

// lettersFor is a folder with a server's store of n letters, and a tenth as
// many items in review, a tenth of those dora's. Where FETCH_TEST_STORE names
// a folder, it is built there once and copied: a million letters take minutes.
func lettersFor(t *testing.T, n int) string {
	t.Helper()
	kept := os.Getenv("FETCH_TEST_STORE")
	dir := t.TempDir()
	if kept != "" {
		kept = filepath.Join(kept, strconv.Itoa(n))
		if _, err := os.Stat(kept); err == nil {
			if err := os.CopyFS(dir, os.DirFS(kept)); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	b := brokertest.StartIn(t, dir, "127.0.0.1:0")
	fill(t, b, n, func(id string) *nats.Msg {
		l := testLetter(id)
		l.Agent = []string{"alice", "bob", "carol"}[len(id)%3]
		if len(id) == 4 && id[3] == '7' {
			l.Error = "a needle in the hay" // nine of them, at the far end
		}
		return l.DeadLetter()
	})
	fill(t, b, n/10, func(id string) *nats.Msg {
		l := testLetter("r" + id)
		l.Error, l.HTTPStatus = "no such symbol", http.StatusNotFound
		if strings.HasSuffix(id, "0") {
			l.Agent = "dora"
		}
		return l.ReviewItem()
	})
	b.Stop()
	if kept != "" {
		if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// With any number of letters the page is there at once, a filter soon; a
// tenth of the items is requeued with a number that moves, and stops where a
// person stops it; and all of it in little memory. With a million
// (FETCH_TEST_MESSAGES) on a quiet machine the bounds are 300 ms, a second and
// 200 MB.
func TestThePageAtScale(t *testing.T) {
	n, paint, filter := many(), 3*time.Second, 3*time.Second // a machine that is busy takes longer
	if n >= 1_000_000 {
		paint, filter = 300*time.Millisecond, time.Second
	}
	b := brokertest.StartIn(t, lettersFor(t, n), "127.0.0.1:0")
	t.Cleanup(b.Stop)
	if err := broker.ServeProvider(t.Context(), b.JS, "fmp", broker.Held(120)); err != nil {
		t.Fatal(err)
	}
	if err := fleet.Beat(t.Context(), b.JS, fleet.Worker{Name: "w-1", Providers: []string{"fmp"}}); err != nil {
		t.Fatal(err)
	}
	s := showPage(t, b.Server.URL())
	if n >= 1_000_000 {
		s.each = time.Second // a look at many searches for a while; a browser looks each two seconds
	}
	for _, c := range []struct {
		path  string
		bound time.Duration
	}{
		{"/", paint},
		{"/letters", paint},
		{"/review", paint},
		{"/waiting", paint},
		{"/provider/fmp", paint},
		{"/audit", paint},
		{"/control?do=pause&all=1&for=1h", paint},
		{"/letters?agent=alice", filter},
		{"/letters?class=permanent", filter},
		{"/letters?error=gone*", filter},
		{"/review?http=404", filter},
		{"/review?agent=dora", filter},
		{"/waiting?agent=bob", filter},
	} {
		began := time.Now()
		s.get(c.path)
		took := time.Since(began)
		t.Logf("%d letters, %d items: %s in %v", n, n/10, c.path, took.Round(time.Millisecond))
		if took > c.bound {
			t.Errorf("%s took %v", c.path, took)
		}
	}
	began := time.Now()
	s.until(2*time.Minute, "/letters", fmt.Sprintf("%d match", n))
	t.Logf("counted after %v", time.Since(began).Round(time.Millisecond))

	// The few among all, without searching on.
	s.until(2*time.Minute, "/letters?error=*needle*", "9 match")
	if body := s.get("/letters?error=*needle*"); strings.Count(body, "a needle in the hay") < 10 || strings.Contains(body, "Search on") {
		t.Errorf("nine of %d are not shown: %s", n, body)
	}

	// Requeued at a pace that can be watched, and stopped in the middle.
	dora := (n/10 + 9) / 10
	act := s.post("/acts", "action", "requeue", "agent", "dora")
	began = time.Now()
	s.until(time.Minute, act, fmt.Sprintf("%d messages to requeue", dora))
	t.Logf("planned after %v", time.Since(began).Round(time.Millisecond))
	confirm := []string{"by", "ann", "reason", "fixed", "count", strconv.Itoa(dora)}
	s.post(act+"/confirm", append(confirm, "rate", strconv.Itoa(dora/2+1))...)
	seen, moved := 0, 0
	for began := time.Now(); seen < dora/4 && time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
		if now := s.did(act); now > seen {
			seen = now
			moved++
		}
	}
	if moved < 2 {
		t.Errorf("the progress moved %d times, to %d", moved, seen)
	}
	s.post(act + "/stop")
	s.until(20*time.Second, act, "the rest was not touched")
	left := int(state(t, b, wire.StreamReview).Msgs) - (n/10 - dora)
	if left <= 0 || left >= dora {
		t.Errorf("%d of %d are left", left, dora)
	}
	t.Logf("stopped with %d of %d left; the progress was seen to move %d times", left, dora, moved)

	// The rest, as fast as it goes.
	act = s.post("/acts", "action", "requeue", "agent", "dora")
	s.until(time.Minute, act, fmt.Sprintf("%d message", left))
	began = time.Now()
	s.post(act+"/confirm", "by", "ann", "reason", "fixed", "count", strconv.Itoa(left))
	s.until(time.Minute, act, "Back to the list")
	t.Logf("the rest in %v", time.Since(began).Round(time.Millisecond))
	if items, letters := state(t, b, wire.StreamReview).Msgs, state(t, b, wire.StreamDLQ).Msgs; items != uint64(n/10-dora) || letters != uint64(n+dora) {
		t.Errorf("%d items and %d letters", items, letters)
	}
	most := peak(t, s.pid)
	t.Logf("the page's process took %d MB at most", most)
	if most > 200 {
		t.Errorf("%d MB", most)
	}
}
