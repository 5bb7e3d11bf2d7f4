package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestAUsedIDCostsNoCall: under an id that has its final answer nothing is
// called for again, whatever is asked for and however fresh; the answer comes
// again at reply_to.
func TestAUsedIDCostsNoCall(t *testing.T) {
	begin(t)
	a := alone(t)
	a.start()
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	a.publish("alice", `{"id":"q-1","params":{"symbol":"AAPL"}}`)
	a.final(id)
	replies, err := a.nc.SubscribeSync("fetch.reply.alice.x")
	if err != nil {
		t.Fatal(err)
	}
	bodies := []string{
		`{"id":"q-1","params":{"symbol":"AAPL"},"reply_to":"fetch.reply.alice.x"}`,
		`{"id":"q-1","params":{"symbol":"AAPL"},"max_age":"0s","reply_to":"fetch.reply.alice.x"}`,
		`{"id":"q-1","params":{"symbol":"OTHER"},"max_age":"0s","reply_to":"fetch.reply.alice.x"}`,
		`{"id":"q-1","params":{"symbol":"OTHER"},"use":"export","max_stale":"1h","reply_to":"fetch.reply.alice.x"}`,
	}
	for range 5 {
		for _, body := range bodies {
			a.publish("alice", body)
			m := next(t, replies)
			if got, err := fetchworker.DecodeAnswer("", m.Header, m.Data); err != nil || got.Status != fetchworker.StatusOK || string(m.Data) != aQuote {
				t.Errorf("%s: %v %q %v", body, m.Header, m.Data, err)
			}
		}
	}
	if n := len(a.upstream.Calls()); n != 1 {
		t.Errorf("%d calls", n)
	}
	a.publish("alice", `{"params":{"symbol":"NEW"}}`)
	until(t, 10*time.Second, "one without an id is called for", func() bool { return len(a.upstream.Calls()) == 2 })
}

// TestWhatIsToldIsPlain: where the clock on the wall is not UTC and a provider
// tells its errors in its own letters, every time is RFC 3339 in UTC, and every
// header printable ASCII.
func TestWhatIsToldIsPlain(t *testing.T) {
	begin(t)
	a := alone(t)
	a.upstream.Fallback = func(r *http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		switch path.Base(r.URL.Path) {
		case "REFUSED":
			step = providertest.JSON(http.StatusBadRequest, "{\"Error Message\":\"Symbol ‘X’ isn’t known – sorry, 株式\\u0007\\u202e\"}")
		case "BROKEN":
			step = providertest.JSON(http.StatusInternalServerError, "{\"Error Message\":\"déjà vu – l’heure d’été\"}")
		}
		return &step
	}
	maps.Copy(a.env, map[string]string{"TZ": "Asia/Tokyo", "FETCH_RETRY_BASE_SECONDS": "3600", "FETCH_LOG_LEVEL": "debug", "USER": "ann"})
	a.start()
	var told []string
	see := func(where string, header nats.Header) {
		t.Helper()
		if len(header) == 0 {
			t.Errorf("%s has no headers", where)
		}
		for name, values := range header {
			for _, value := range values {
				if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("%s: %s is %q", where, name, value)
				}
				told = append(told, value)
			}
		}
	}
	for _, symbol := range []string{"AAPL", "REFUSED", "BROKEN"} {
		a.publish("alice", fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}}`, symbol, symbol))
	}
	last := func(stream, subject string) (header nats.Header) {
		t.Helper()
		until(t, 20*time.Second, subject+" is stored", func() bool {
			s, err := a.js.Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.GetLastMsgForSubject(t.Context(), subject)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return false
			}
			if err != nil {
				t.Fatal(err)
			}
			header = m.Header
			return true
		})
		return header
	}
	for _, symbol := range []string{"AAPL", "REFUSED"} {
		see("the answer "+symbol, last(fetchworker.StreamResults, "fetch.result.fmp.quote.alice."+symbol))
	}
	letter := last(wire.StreamDLQ, "fetch.dlq.fmp.>")
	see("the letter", letter)
	if !strings.Contains(fmt.Sprint(letter), "j") || !json.Valid([]byte(letter.Get("Fetch-History"))) {
		t.Errorf("the letter says %v", letter)
	}
	env := map[string]string{"NATS_URL": a.nc.ConnectedUrl(), "TZ": "Asia/Tokyo", "USER": "ann"}
	for _, args := range [][]string{
		{"pause", "fmp", "--for", "1h", "--reason", "maintenance"},
		{"status", "--json"},
		{"list", "--json"},
		{"show", "alice/BROKEN", "--json"},
		{"show", "alice/REFUSED", "--json"},
		{"audit", "--json"},
		{"review", "list", "--json"},
	} {
		p := launch(t, "replayer "+args[0], program("replayer"), env, args...)
		if code := p.ended(t, time.Minute); code != 0 && code != 3 {
			t.Errorf("%v: exit code %d, %s", args, code, p.log.tail(5))
		}
		told = append(told, p.log.tail(1000))
	}
	fetched := launch(t, "fetch", program("fetch"), env, "result", "fmp", "quote", "AAPL", "--agent", "alice", "--json")
	if code := fetched.ended(t, time.Minute); code != 0 {
		t.Logf("fetch result: %d %s", code, fetched.log.tail(3))
	}
	told = append(told, fetched.log.tail(100), a.log.tail(10_000))
	times := 0
	for _, text := range told {
		for _, at := range regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(\S{0,6})`).FindAllStringSubmatch(text, -1) {
			if times++; !strings.HasPrefix(at[1], "Z") {
				t.Errorf("%s is told of a time: %q", at[0], text[max(0, strings.Index(text, at[0])-40):][:60])
			}
		}
	}
	const some = 50
	if times < some {
		t.Errorf("only %d times were told", times)
	}
	for line := range strings.Lines(a.log.tail(10_000)) {
		var says struct {
			Time string `json:"time"`
		}
		if err := json.Unmarshal([]byte(line), &says); err != nil || says.Time == "" {
			t.Errorf("the log says %s", line)
		}
	}
}

// TestABucketThatIsGone: without what the fleet shares no provider with a limit
// is called, /readyz says so within five seconds, and after worker apply all goes
// on by itself: a pause that is given then is obeyed at once.
func TestABucketThatIsGone(t *testing.T) {
	begin(t)
	_, nc, url := plainServer(t, t.TempDir())
	// A register that is lost counts as full: a second of it is enough here.
	catalogue := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(catalogue, []byte("providers:\n  fmp:\n    limits: 10/s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := withServer(t, well(0), nc, nc, map[string]string{
		"NATS_URL": url, "FETCH_CATALOG": catalogue, "USER": "ann",
		"FETCH_STREAM_BYTES": "requests=64MiB,results=64MiB,bodies=64MiB,cache=64MiB",
	})
	delete(f.env, "FMP_REQUESTS_PER_MINUTE")
	ready := "http://" + field(t, f.worker("FETCH_HTTP_ADDR", "127.0.0.1:0").says(t, `"serving"`), "http") + "/readyz"
	f.replayer()
	f.final(f.quote("alice", "BEFORE"), 30*time.Second)
	if err := f.js.DeleteStream(t.Context(), "KV_"+wire.BucketProviders); err != nil {
		t.Fatal(err)
	}
	until(t, pick(15*time.Second, 5*time.Second), "/readyz names the bucket", func() bool {
		status, text := get(t, ready)
		return status == http.StatusServiceUnavailable && strings.Contains(text, wire.BucketProviders)
	})
	gone := f.quote("alice", "GONE")
	time.Sleep(pick(time.Second, 5*time.Second))
	if n := len(f.calls("GONE")); n != 0 {
		t.Errorf("%d calls that nobody counts", n)
	}
	f.runs("worker", 0, "apply")
	f.runs("replayer", 0, "pause", "fmp", "--for", "1h", "--reason", "maintenance")
	paused := f.quote("alice", "PAUSED")
	back := time.Now()
	until(t, 30*time.Second, "it is ready again by itself", func() bool { status, _ := get(t, ready); return status == http.StatusOK })
	time.Sleep(pick(0, 30*time.Second))
	if n := len(f.upstream.Calls()); n != 1 {
		t.Errorf("%d calls of a provider that is paused", n-1)
	}
	t.Logf("ready %v after worker apply", time.Since(back).Round(time.Millisecond))
	f.runs("replayer", 0, "resume", "fmp", "--reason", "over")
	if !full { // a register that was lost counts as full for a while
		return
	}
	for _, id := range []fetchworker.Identity{gone, paused} {
		if a := f.final(id, time.Minute); a.Status != fetchworker.StatusOK || len(f.calls(id.ID)) != 1 {
			t.Errorf("%s: %v after %d calls", id, a.Status, len(f.calls(id.ID)))
		}
	}
	t.Logf("all answered %v after worker apply", time.Since(back).Round(time.Millisecond))
}

// runs starts a command of a person's, which ends with this exit code.
func (f *fleet) runs(name string, want int, args ...string) (words string) {
	f.t.Helper()
	p := launch(f.t, name+" "+args[0], program(name), f.env, args...)
	code := p.ended(f.t, time.Minute)
	if words = p.log.tail(1000); code != want {
		f.t.Errorf("%s %v: exit code %d, want %d: %s", name, args, code, want, words)
	}
	return words
}

// TestParkedWorkGoesAtThePaceThatIsAllowed: what waits for a small limit, for
// the end of a pause, or for a worker goes when the limit is raised, the provider
// resumed, a worker there.
func TestParkedWorkGoesAtThePaceThatIsAllowed(t *testing.T) {
	begin(t)
	f := newFleet(t, well(0))
	f.env["FMP_REQUESTS_PER_MINUTE"], f.env["USER"] = "600", "ann"
	worker := f.worker()
	f.replayer()
	n := 0
	asks := func(times int) {
		for range times {
			n++
			f.quote(fmt.Sprint("agent-", n%3), fmt.Sprint("S", n))
		}
	}
	waits := func(some int) {
		t.Helper()
		until(t, 30*time.Second, fmt.Sprint(some, " wait"), func() bool {
			waiting := f.count(fetchworker.StreamRequests) + f.count(wire.StreamDLQ)
			return waiting >= some && waiting == n-len(f.upstream.Calls())
		})
	}
	goes := func(what string) {
		t.Helper()
		begun := time.Now()
		until(t, time.Minute, "all are called after "+what, func() bool { return len(f.upstream.Calls()) == n })
		took := time.Since(begun)
		t.Logf("%s: the last is called after %v", what, took.Round(time.Millisecond))
		if full && took > 5*time.Second { // a crowded machine takes what it takes
			t.Errorf("%s: the last is called only after %v", what, took)
		}
		f.settled(30 * time.Second)
	}
	f.runs("replayer", 0, "limit", "fmp", pick("10/min", "10/min,1/s"), "--reason", "a small plan", "--yes")
	asks(40)
	until(t, 30*time.Second, "the limit is met", func() bool { return len(f.upstream.Calls()) >= 5 })
	waits(30)
	f.runs("replayer", 0, "limit", "fmp", "300/h", "--reason", "a larger one", "--yes")
	goes("a raised limit")
	f.runs("replayer", 0, "pause", "fmp", "--for", "1h", "--reason", "maintenance")
	asks(20)
	waits(20)
	f.runs("replayer", 0, "resume", "fmp", "--reason", "over")
	goes("a resume")
	f.runs("replayer", 0, "pause", "fmp", "--for", "1h", "--reason", "maintenance")
	asks(20)
	waits(20)
	worker.signal(t, syscall.SIGTERM)
	worker.ended(t, 30*time.Second)
	f.runs("replayer", 0, "resume", "fmp", "--reason", "over")
	f.worker()
	goes("a start")
	for _, id := range f.accepted {
		if calls := len(f.calls(id.ID)); calls != 1 {
			t.Errorf("%s: %d calls", id, calls)
		}
	}
}

// TestApplySaysWhatASmallServerLacks before it makes the first stream.
func TestApplySaysWhatASmallServerLacks(t *testing.T) {
	begin(t)
	config := filepath.Join(t.TempDir(), "small.conf")
	if err := os.WriteFile(config, []byte("server_name: small\nlisten: 127.0.0.1:0\njetstream { max_file_store: 30MB }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := brokertest.FreePort(t)
	s := &natsServer{name: "small", port: port, args: []string{serverRole, config, strconv.Itoa(port), "0", "", t.TempDir()}}
	s.start(t)
	env := map[string]string{"NATS_URL": "nats://127.0.0.1:" + strconv.Itoa(port)}
	p := launch(t, "worker apply", program("worker"), env, "apply")
	code := p.ended(t, time.Minute)
	for _, want := range []string{"the streams reserve 11 GiB", "it has ", "max_file_store", "FETCH_STREAM_BYTES"} {
		if said := p.log.tail(3); code != 1 || !strings.Contains(said, want) {
			t.Errorf("exit code %d, without %q: %s", code, want, said)
		}
	}
	nc, err := nats.Connect(env["NATS_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("%s was made", name)
	}
	env["FETCH_STREAM_BYTES"] = "requests=4MiB,results=4MiB,bodies=4MiB,cache=4MiB"
	if p = launch(t, "worker apply", program("worker"), env, "apply"); p.ended(t, time.Minute) != 0 {
		t.Errorf("with smaller ones: %s", p.log.tail(3))
	}
}

// TestOneAgentLeavesRoomWhereNobodyWorks: the stream alone refuses what an agent
// publishes beyond its backlog, and takes another's.
func TestOneAgentLeavesRoomWhereNobodyWorks(t *testing.T) {
	begin(t)
	_, nc, url := plainServer(t, t.TempDir())
	env := map[string]string{"NATS_URL": url, "FETCH_STREAM_BYTES": "requests=16MiB,results=8MiB,bodies=8MiB,cache=8MiB", "FETCH_AGENT_BACKLOG": "150"}
	if p := launch(t, "worker apply", program("worker"), env, "apply"); p.ended(t, time.Minute) != 0 {
		t.Fatal(p.log.tail(5))
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	padding := bytes.Repeat([]byte(" "), 60<<10)
	large := func(agent string, i int) error {
		_, err := js.Publish(ctx, "fetch.request.fmp.interactive.quote."+agent, append(fmt.Appendf(nil, `{"id":"L%d","params":{"symbol":"L%d"}}`, i, i), padding...))
		return err
	}
	taken := 0
	var refused error
	for i := range 300 {
		if refused = large("mallory", i); refused != nil {
			break
		}
		taken++
	}
	var api *jetstream.APIError
	if taken != 150 || !errors.As(refused, &api) || api.ErrorCode != 10077 {
		t.Errorf("%d are taken, then: %v", taken, refused)
	}
	for i := range 50 {
		if err := large("bob", i); err != nil {
			t.Fatalf("another's request %d: %v", i, err)
		}
	}
}

// TestCheckSaysWhoseErrorsWouldBeKept: a provider of the catalogue without a
// rule for errors under 2xx is named by the built program too.
func TestCheckSaysWhoseErrorsWouldBeKept(t *testing.T) {
	begin(t)
	catalogue := filepath.Join(t.TempDir(), "catalog.yaml")
	text := "providers:\n  tides:\n    base_url: https://tides.example.com\n    auth: {header: X-Token}\n    operations: {heights: {path: /heights}}\n"
	if err := os.WriteFile(catalogue, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "worker check", program("worker"), nil, "check", "--catalog", catalogue)
	if code := p.ended(t, time.Minute); code != 0 || strings.Count(p.log.tail(1000), "none is told from an answer under 2xx") != 1 {
		t.Errorf("exit code %d: %s", code, p.log.tail(1000))
	}
}
