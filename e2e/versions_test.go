package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// firstVersion is the commit of the first version: what it wrote is in
// testdata/wire, and its programs must be able to work beside this one's.
const firstVersion = "aedcf18"

// versions says what of the first version's programs is wanted: "record" what
// they write, or let them work "beside" this version's.
var versions = os.Getenv("FETCH_VERSIONS")

// firstPrograms builds the first version's programs from its commit.
func firstPrograms(t *testing.T) (program func(name string) string) {
	t.Helper()
	tree, bin := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	git := func(args ...string) {
		t.Helper()
		if output, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, output)
		}
	}
	git("worktree", "add", "--detach", tree, firstVersion)
	defer git("worktree", "remove", "--force", tree)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/worker", "./cmd/replayer")
	build.Dir = tree
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	return func(name string) string { return filepath.Join(bin, name) }
}

const largeBody = 600 << 10

// playedFirst answers as a symbol wants it.
func playedFirst(r *http.Request) *providertest.Step {
	symbol := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	step := providertest.JSON(http.StatusOK, `[{"symbol":"`+symbol+`","price":272.19}]`)
	switch {
	case strings.HasPrefix(symbol, "BROKEN"), strings.Contains(r.URL.Path, "/DOWN"):
		step = providertest.JSON(http.StatusInternalServerError, `{"Error Message":"boom","error":"boom","status":"ERROR"}`)
	case strings.Contains(r.URL.RawQuery, "BUSY"):
		step = providertest.JSON(http.StatusTooManyRequests, `{"Error Message":"Limit Reach"}`)
		step.Header = http.Header{"Retry-After": {"3600"}}
	case strings.HasPrefix(symbol, "NONE"):
		step = providertest.JSON(http.StatusOK, `[]`)
	case strings.HasPrefix(symbol, "LARGE"):
		step = providertest.JSON(http.StatusOK, `[{"symbol":"`+symbol+`","history":"`+strings.Repeat("0123456789", largeBody/10)+`"}]`)
	}
	return &step
}

// TestRecordTheFirstVersion writes testdata/wire: every kind of message that
// the first version leaves on a server. It is history, and need not be written again.
func TestRecordTheFirstVersion(t *testing.T) {
	if versions != "record" {
		t.Skip("FETCH_VERSIONS=record writes testdata/wire")
	}
	first := firstPrograms(t)
	server, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Sync: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	upstream := played(t, playedFirst)
	env := map[string]string{
		"NATS_URL": server.URL(), "FETCH_HTTP_ADDR": "off", "USER": "ann",
		"FMP_API_KEY": aKey, "FMP_BASE_URL": upstream.URL() + "/api/v3", "FMP_BANDWIDTH_LIMIT_GB": "1",
		"POLYGON_API_KEY": aKey, "POLYGON_BASE_URL": upstream.URL(),
		"FRED_API_KEY": aKey, "FRED_BASE_URL": upstream.URL() + "/fred",
		"FETCH_CIRCUIT_FAILURES": "0", "FETCH_RETRY_BASE_SECONDS": "0.1",
	}
	start := func() (worker, replayer *process) {
		worker, replayer = launch(t, "worker", first("worker"), env), launch(t, "replayer", first("replayer"), env, "run")
		worker.says(t, `"serving"`)
		return worker, replayer
	}
	stop := func(p *process) {
		p.signal(t, syscall.SIGTERM)
		p.ended(t, 30*time.Second)
	}
	publish := func(subject, id, body string) {
		t.Helper()
		m := nats.NewMsg("fetch.request." + subject)
		m.Header.Set(nats.MsgIdHdr, id)
		m.Header.Set("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		m.Data = []byte(body)
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	quote := func(id, symbol string) {
		t.Helper()
		publish("fmp.interactive.quote.alice", id, fmt.Sprintf(`{"id":%q,"params":{"symbol":%q},"ttl":"48h","max_stale":"24h","reply_to":"fetch.reply.alice.x"}`, id, symbol))
	}
	count := func(stream string, n uint64) {
		t.Helper()
		until(t, time.Minute, fmt.Sprint(stream, " holds ", n), func() bool {
			s, err := js.Stream(context.Background(), stream) //nolint:usetesting // polled
			return err == nil && s.CachedInfo().State.Msgs == n
		})
	}
	operate := func(args ...string) {
		t.Helper()
		p := launch(t, "replayer "+args[0], first("replayer"), env, args...)
		if code := p.ended(t, time.Minute); code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, p.log.tail(10))
		}
	}

	// Answers of every kind, and what a person decides on.
	worker, replayer := start()
	quote("ok", "AAPL")
	quote("large", "LARGE")
	quote("none", "NONE")
	publish("fmp.batch.quote.bob", "bad", `{"id":"bad","symbol":"AAPL"}`)
	for _, id := range []string{"review", "requeued", "discarded"} {
		quote(id, "BROKEN-"+id)
	}
	count(wire.StreamReview, 3)
	operate("review", "discard", "alice/discarded", "--yes", "--reason", "no such thing")
	stop(worker)
	stop(replayer)

	// Letters: one that failed, one that a person released, parked ones.
	env["FETCH_CIRCUIT_FAILURES"], env["FETCH_RETRY_BASE_SECONDS"], env["FETCH_CIRCUIT_OPEN_SECONDS"] = "3", "3600", "3600"
	worker, replayer = start()
	operate("review", "requeue", "alice/requeued", "--yes", "--reason", "try again")
	quote("letter", "BROKEN-letter")
	quote("replayed", "BROKEN-replayed")
	for i := range 3 {
		publish("polygon.batch.previous_close.alice", fmt.Sprint("down-", i), fmt.Sprintf(`{"id":"down-%d","params":{"symbol":"DOWN%d"}}`, i, i))
	}
	publish("fred.interactive.series.bob", "busy", `{"id":"busy","params":{"series_id":"BUSY"}}`)
	time.Sleep(3 * time.Second)
	publish("polygon.interactive.previous_close.alice", "circuit", `{"id":"circuit","params":{"symbol":"AAPL"}}`)
	operate("pause", "fmp", "--for", "4h", "--reason", "maintenance")
	operate("limit", "fmp", "60/min", "--reason", "somebody else needs them")
	time.Sleep(3 * time.Second)
	quote("parked", "AMZN")
	time.Sleep(3 * time.Second)
	// What is on its way when a worker dies, and what it said of itself.
	operate("resume", "fmp", "--reason", "to release one")
	worker.kill()
	operate("replay", "alice/replayed", "--yes", "--reason", "now")
	count(wire.StreamReplay, 1)
	stop(replayer)
	operate("pause", "fmp", "--for", "4h", "--reason", "maintenance")
	quote("waiting", "MSFT")
	publish("polygon.batch.previous_close.bob", "waiting-too", `{"id":"waiting-too","params":{"symbol":"MSFT"}}`)
	recordStreams(t, js)
}

// TestTheFirstVersionWorksBesideThisOne: on one server, as in an upgrade that
// has come half of its way, both versions' workers and replayers do the work,
// under one limit, and nothing is lost or called twice. The first version made
// the streams; this one brings them up to date while it runs.
func TestTheFirstVersionWorksBesideThisOne(t *testing.T) {
	if versions != "beside" {
		t.Skip("builds the first version: make versions")
	}
	const limit, lasts = 300, time.Minute // calls a minute
	first := firstPrograms(t)
	var failed sync.Map
	server, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Sync: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	f := withServer(t, func(r *http.Request) *providertest.Step {
		step := *well(20 * time.Millisecond)(r)
		if strings.HasSuffix(r.URL.Path, "7") {
			if _, again := failed.LoadOrStore(r.URL.Path, true); !again {
				step = providertest.JSON(http.StatusInternalServerError, `{"Error Message":"boom"}`)
			}
		}
		return &step
	}, nc, nc, map[string]string{"NATS_URL": server.URL()})
	f.env["FMP_REQUESTS_PER_MINUTE"] = fmt.Sprint(limit)
	env := maps.Clone(f.env)
	old := []*process{launch(t, "first worker", first("worker"), env), launch(t, "first replayer", first("replayer"), env, "run")}
	old[0].says(t, `"serving"`)
	young := f.worker()
	f.replayer()
	symbol := 0
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
		for _, agent := range []string{"alice", "bob", "carol"} {
			symbol++
			f.quote(agent, fmt.Sprint("S", symbol))
		}
	}
	f.settled(3 * time.Minute)
	for _, id := range f.accepted {
		want := 1
		if strings.HasSuffix(id.ID, "7") {
			want = 2
		}
		if n := len(f.calls(id.ID)); n != want {
			t.Errorf("%s: %d calls", id, n)
		}
	}
	for _, p := range []*process{old[0], young} {
		if p.log.find(`"status":"ok"`) == "" {
			t.Errorf("%s answered nothing", p.name)
		}
	}
	f.inside(limit)
	t.Logf("%d requests, %d calls: %v", len(f.accepted), len(f.upstream.Calls()), f.statuses())
}

// inside checks that no minute saw more calls than it may.
func (f *fleet) inside(limit int) {
	f.t.Helper()
	calls := f.upstream.Calls()
	slices.SortFunc(calls, func(a, b providertest.Call) int { return a.At.Compare(b.At) })
	for i := limit; i < len(calls); i++ {
		if gap := calls[i].At.Sub(calls[i-limit].At); gap < time.Minute {
			f.t.Errorf("%d calls within %v", limit+1, gap)
			return
		}
	}
}
