package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// step is what passes on Prometheus' clock between two scrapes: its interval
// in compose. Here a scrape is made every beat, so hours take seconds.
const (
	step = 15 * time.Second
	beat = 250 * time.Millisecond
)

// TestADayInTheLife runs the worker's binary against a played provider that
// goes down and comes back, scrapes it as Prometheus would, evaluates the
// shipped alerts meanwhile, and then asks every panel of every dashboard.
func TestADayInTheLife(t *testing.T) {
	if testing.Short() {
		t.Skip("twenty seconds of a worker's life")
	}
	o := observe(t)
	o.live("all is well", 12)
	if firing := o.group.fires; len(firing["ProviderDown"])+len(firing["NoWorker"]) > 0 {
		t.Errorf("firing while all is well: %v", firing)
	}

	o.upstream.SetDown(true)
	o.live("the provider is down", 24)
	if got := o.group.fires["ProviderDown"]; len(got) != 1 || !strings.Contains(got[0], `provider="fmp"`) {
		t.Errorf("firing in the outage: %v", o.group.fires)
	}

	o.upstream.SetDown(false)
	o.live("it is back", 24)
	if got := o.group.fires["ProviderDown"]; len(got) > 0 {
		t.Errorf("still firing: %v", got)
	}

	for name, panels := range dashboards(t) {
		if name == "nats.json" || name == "gateway.json" {
			continue // neither is scraped here; that their names exist is seen elsewhere
		}
		for _, p := range panels {
			for _, target := range p.Targets {
				if !o.hasData(target.Expr) {
					t.Errorf("%s: %q shows nothing: %s", name, p.Title, target.Expr)
				}
			}
		}
	}

	o.kill()
	o.live("the worker is gone", 10)
	if got := o.group.fires["NoWorker"]; len(got) != 1 {
		t.Errorf("firing with no worker: %v", o.group.fires)
	}
}

type observed struct {
	t        *testing.T
	upstream *providertest.Server
	client   *fetchworker.Client
	worker   *exec.Cmd
	targets  []target
	quiet    bool // nobody asks for anything
	store    memory
	group    *group
	start    time.Time
	now      time.Time // Prometheus' clock
	asked    int
	last     map[uint64]labels.Labels // what the last scrape saw
}

// target is a process that Prometheus scrapes.
type target struct{ job, instance, url string }

func observe(t *testing.T) *observed {
	t.Helper()
	o := watching(t)
	nats, listen := freeAddr(t), freeAddr(t)
	o.targets = []target{{"worker", "w-1", "http://" + listen}}
	o.worker = o.launch("worker", "FETCH_DATA_DIR="+t.TempDir(), "FETCH_NATS_ADDR="+nats, "FETCH_HTTP_ADDR="+listen)
	awaitReady(t, listen)
	o.connect("nats://" + nats)
	return o
}

// connect is how requests come in.
func (o *observed) connect(url string) {
	o.t.Helper()
	client, err := fetchworker.Connect(url, "alice")
	if err != nil {
		o.t.Fatal(err)
	}
	o.client = client
	o.t.Cleanup(client.Close)
}

// launch starts one of our programs, with what makes its hours pass quickly.
func (o *observed) launch(name string, env ...string) *exec.Cmd {
	o.t.Helper()
	dir, err := built()
	if err != nil {
		o.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, name))
	if name == "replayer" {
		cmd.Args = append(cmd.Args, "run")
	}
	cmd.Env = append(append(os.Environ(), "FMP_API_KEY=fmp-key-0123456789", "FMP_BASE_URL="+o.upstream.URL()+"/api/v3",
		"FMP_REQUESTS_PER_MINUTE=6000", "FMP_BANDWIDTH_LIMIT_GB=1", "FETCH_CIRCUIT_OPEN_SECONDS=0.5", "FETCH_RETRY_BASE_SECONDS=0.2",
		"FETCH_SYNC=interval", "FETCH_GATEWAY=off"), env...)
	var logs strings.Builder
	cmd.Stderr = &logs
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		end(cmd)
		if o.t.Failed() {
			o.t.Log(logs.String())
		}
	})
	return cmd
}

// watching is a Prometheus with the shipped alerts, and nothing to scrape yet.
func watching(t *testing.T) *observed {
	t.Helper()
	upstream, err := providertest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	upstream.Fallback = answerAnything
	t.Cleanup(upstream.Close)
	o := &observed{
		t: t, upstream: upstream, store: memory{},
		start: time.Now().Add(-2 * time.Hour),
	}
	o.now = o.start
	o.group = alerts(t, o.store)
	return o
}

func awaitReady(t testing.TB, listen string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Get("http://" + listen + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the worker is not ready")
		}
	}
}

func (o *observed) kill() { end(o.worker) }

// end stops a program, if it still runs.
func end(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
}

// live lets some intervals pass, with requests of every kind in each.
func (o *observed) live(what string, intervals int) {
	o.t.Log(what)
	for range intervals {
		o.requests()
		time.Sleep(beat)
		o.scrape()
		o.group.eval(o.t, o.now)
		o.now = o.now.Add(step)
	}
}

// requests asks for new things, for something that is cached, for something
// that may be stale, and for what the provider fails and refuses.
func (o *observed) requests() {
	if o.quiet || o.worker.ProcessState != nil {
		return
	}
	o.asked++
	for _, more := range []string{
		fmt.Sprintf(`{"symbol":"NEW%d"}`, o.asked), `{"symbol":"SAME"}`, `{"symbol":"OLD"}`,
		fmt.Sprintf(`{"symbol":"ERR%d"}`, o.asked), `{"symbol":"NONE"}`, `{"symbol":"SLOW"}`,
	} {
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", Params: json.RawMessage(more), Lane: fetchworker.LaneInteractive}
		if o.asked%2 == 0 {
			r.Lane = fetchworker.LaneBatch
		}
		if strings.Contains(more, "SAME") {
			age := fetchworker.Duration(time.Hour)
			r.MaxAge = &age
		}
		if strings.Contains(more, "OLD") {
			age := fetchworker.Duration(time.Millisecond)
			r.MaxAge, r.MaxStale = &age, new(fetchworker.Duration(time.Hour))
		}
		ctx, cancel := context.WithTimeout(o.t.Context(), 5*time.Second)
		if _, err := o.client.Submit(ctx, r); err != nil {
			o.t.Error(err)
		}
		cancel()
	}
	// A second operation, so that an outage is the provider's and not one endpoint's.
	ctx, cancel := context.WithTimeout(o.t.Context(), 5*time.Second)
	defer cancel()
	r := fetchworker.Request{Provider: "fmp", Operation: "profile", Params: fmt.Appendf(nil, `{"symbol":"NEW%d"}`, o.asked)}
	if _, err := o.client.Submit(ctx, r); err != nil {
		o.t.Error(err)
	}
}

var served atomic.Int64

func answerAnything(r *http.Request) *providertest.Step {
	calls := served.Add(1)
	step := providertest.JSON(200, `[{"symbol":"X","price":1}]`)
	switch symbol := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]; {
	case strings.HasPrefix(symbol, "ERR") && calls%3 == 0, symbol == "OLD" && calls%2 == 0:
		step = providertest.JSON(500, `{}`)
	case symbol == "NONE":
		step = providertest.JSON(404, `{"Error Message":"there is no such symbol"}`)
	}
	return &step
}

// scrape stores what each process tells, as Prometheus does: with up, and with
// nothing else if it does not answer.
func (o *observed) scrape() {
	at := model.TimeFromUnixNano(o.now.UnixNano())
	gone := o.last
	o.last = map[uint64]labels.Labels{}
	add := func(from target, m model.Metric, v model.SampleValue) {
		b := labels.NewBuilder(labels.EmptyLabels())
		for name, value := range m {
			b.Set(string(name), string(value))
		}
		b.Set("job", from.job)
		b.Set("instance", from.instance)
		l := b.Labels()
		o.last[l.Hash()] = l
		delete(gone, l.Hash())
		o.store.add(l, o.now, float64(v))
	}
	for _, from := range o.targets {
		up := model.SampleValue(0)
		if res, err := http.Get(from.url + "/metrics"); err == nil {
			decoder := &expfmt.SampleDecoder{Dec: expfmt.NewDecoder(res.Body, expfmt.ResponseFormat(res.Header)), Opts: &expfmt.DecodeOptions{Timestamp: at}}
			for {
				var samples model.Vector
				if err := decoder.Decode(&samples); err == io.EOF {
					break
				} else if err != nil {
					o.t.Fatal(err)
				}
				for _, s := range samples {
					add(from, s.Metric, s.Value)
				}
			}
			res.Body.Close()
			up = 1
		}
		add(from, model.Metric{"__name__": "up"}, up)
	}
	for _, l := range gone { // what is not told any more ends here, not five minutes later
		o.store.add(l, o.now, math.Float64frombits(value.StaleNaN))
	}
}

// hasData reports whether a panel's query shows anything in this run.
func (o *observed) hasData(expr string) bool {
	expr = strings.NewReplacer("$__rate_interval", "1m", "$provider", "fmp").Replace(expr)
	query, err := o.group.engine.NewRangeQuery(o.t.Context(), o.store, nil, expr, o.start, o.now, step)
	if err != nil {
		o.t.Errorf("%s: %v", expr, err)
		return false
	}
	defer query.Close()
	matrix, err := query.Exec(o.t.Context()).Matrix()
	if err != nil {
		o.t.Errorf("%s: %v", expr, err)
		return false
	}
	for _, series := range matrix {
		for _, p := range series.Floats {
			if !math.IsNaN(p.F) {
				return true
			}
		}
	}
	return false
}

type panel struct {
	ID      int    `json:"id"`
	Title   string `json:"title"`
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
}

func dashboards(t *testing.T) map[string][]panel {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "deploy/grafana/dashboards/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string][]panel{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Panels []panel `json:"panels"`
		}
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = d.Panels
	}
	return all
}

// freeAddr is an address that nobody listens on.
func freeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", brokertest.FreePort(t))
}
