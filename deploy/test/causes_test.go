package deploy_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestEachCauseIsTold brings about, one after the other, what must wake
// somebody, on a running fleet with a server of its own: the alert fires on
// what was scraped, and not before.
func TestEachCauseIsTold(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a fleet")
	}
	o := watching(t)
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	broker.Start()
	t.Cleanup(broker.Shutdown)
	refusing := false
	o.upstream.Fallback = func(r *http.Request) *providertest.Step {
		if refusing {
			step := providertest.JSON(http.StatusUnauthorized, `{"Error Message":"Invalid API KEY."}`)
			return &step
		}
		return answerAnything(r)
	}
	w, r := freeAddr(t), freeAddr(t)
	o.worker = o.launch("worker", "NATS_URL="+broker.ClientURL(), "FETCH_HTTP_ADDR="+w)
	awaitReady(t, w)
	replayer := o.launch("replayer", "NATS_URL="+broker.ClientURL(), "FETCH_HTTP_ADDR="+r)
	awaitReady(t, r)
	o.targets = []target{{"worker", "w-1", "http://" + w}, {"replayer", "r-1", "http://" + r}}
	o.connect(broker.ClientURL())
	nc, err := nats.Connect(broker.ClientURL(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	fires := func(want ...string) {
		t.Helper()
		all := o.group.fires
		for _, name := range []string{"NoWorker", "NatsDisconnected", "NoReplayer", "KeyRefused", "StoreNearlyFull"} {
			if got := len(all[name]) > 0; got != slices.Contains(want, name) {
				t.Errorf("%s fires: %v; of all: %v", name, got, all)
			}
		}
	}

	o.live("all is well", 8)
	fires()

	stream, err := js.Stream(t.Context(), fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	config, bytes := stream.CachedInfo().Config, stream.CachedInfo().State.Bytes
	resize := func(limit int64) {
		t.Helper()
		config.MaxBytes = limit
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	before := config.MaxBytes
	o.quiet = true
	resize(int64(bytes) * 5 / 4)
	o.live("answers fill their store", 24)
	fires("StoreNearlyFull")
	resize(before)
	o.quiet = false
	o.live("it has room again", 8)
	fires()

	refusing = true
	o.live("the key is refused", 48)
	fires("KeyRefused")
	if age, ok := o.value(strings.ReplaceAll(expression(t, "OldestLetter"), "12 * 3600", "2")); !ok || age < 2 {
		t.Errorf("the oldest letter has waited for %v s: %v", age, ok)
	}
	if _, ok := o.value(expression(t, "OldestLetter")); ok {
		t.Error("a letter has waited for twelve hours")
	}
	refusing = false

	end(replayer)
	o.live("no replayer", 24)
	if all := o.group.fires; len(all["NoReplayer"]) == 0 {
		t.Errorf("no replayer: %v", all)
	}

	o.quiet = true
	broker.Shutdown()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		o.scrape()
		o.now = o.now.Add(time.Second)
		if connected, ok := o.value(`max(fetch_nats_connected{job="worker"})`); ok && connected == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the worker does not see that its server is gone")
		}
	}
	o.live("NATS is dead", 8)
	if all := o.group.fires; len(all["NatsDisconnected"]) == 0 {
		t.Errorf("without NATS: %v", all)
	}

	o.kill()
	o.live("no worker", 10)
	if all := o.group.fires; len(all["NoWorker"]) == 0 {
		t.Errorf("without a worker: %v", all)
	}
}

// value is what an expression comes to now; ok is false if it is nothing.
func (o *observed) value(expr string) (value float64, ok bool) {
	o.t.Helper()
	query, err := o.group.engine.NewInstantQuery(o.t.Context(), o.store, nil, expr, o.now)
	if err != nil {
		o.t.Fatalf("%s: %v", expr, err)
	}
	defer query.Close()
	vector, err := query.Exec(o.t.Context()).Vector()
	if err != nil {
		o.t.Fatalf("%s: %v", expr, err)
	}
	for _, sample := range vector {
		return sample.F, true
	}
	return 0, false
}

// expression is that of a shipped alert.
func expression(t *testing.T, name string) string {
	t.Helper()
	for _, rule := range alerts(t, memory{}).rules {
		if rule.Alert == name {
			return rule.Expr
		}
	}
	t.Fatalf("no alert %s", name)
	return ""
}
