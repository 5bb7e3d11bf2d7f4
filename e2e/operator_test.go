package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// store writes many messages at once and waits for all of them.
func store(t *testing.T, js jetstream.JetStream, n int, message func(i int) *nats.Msg) {
	t.Helper()
	sent := make([]jetstream.PubAckFuture, 0, n)
	for i := range n {
		ack, err := js.PublishMsgAsync(message(i), jetstream.WithStallWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, ack)
	}
	<-js.PublishAsyncComplete()
	for _, ack := range sent {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			t.Fatal(err)
		}
	}
}

func aLetter(id string, class wire.Class) dlq.Letter {
	now, failed := time.Now().UTC(), 0
	if class == wire.ClassTransient {
		failed = 4
	}
	return dlq.Letter{
		Identity: fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id},
		Lane:     fetchworker.LaneBatch, Body: fmt.Appendf(nil, `{"id":%q,"params":{"symbol":"AAPL"}}`, id),
		Generation: 1, Calls: failed, Failures: failed, Class: class, Error: "boom",
		RequestedAt: now, FailedAt: now, FirstFailedAt: now, NotBefore: now,
	}
}

// TestHeldLettersDelayNoOtherProvidersRetry has a crowd of one provider's
// letters wait for its pause to end, and looks how late another provider's
// retries come meanwhile: while the replayer meets the crowd, and after.
func TestHeldLettersDelayNoOtherProvidersRetry(t *testing.T) {
	begin(t)
	held, late, lasts := pick(4000, 200_000), pick(4*time.Second, 2*time.Second), pick(4*time.Second, 40*time.Second)
	f := newFleet(t, well(0))
	failed := map[string]bool{}
	f.upstream.Fallback = func(r *http.Request) *providertest.Step {
		f.mu.Lock()
		defer f.mu.Unlock()
		if symbol := path.Base(path.Dir(path.Dir(path.Dir(path.Dir(path.Dir(r.URL.Path)))))); !failed[symbol] {
			failed[symbol] = true
			step := providertest.JSON(http.StatusInternalServerError, "boom")
			return &step
		}
		step := providertest.JSON(http.StatusOK, `{"status":"OK","results":[{"c":1}]}`)
		return &step
	}
	f.env["POLYGON_API_KEY"], f.env["POLYGON_BASE_URL"], f.env["POLYGON_REQUESTS_PER_MINUTE"] = aKey, f.upstream.URL(), "0"
	f.env["FETCH_CIRCUIT_FAILURES"] = "0"
	f.worker()
	pause := launch(t, "replayer pause", program("replayer"), f.env, "pause", "fmp", "--for", "1h", "--reason", "maintenance")
	if code := pause.ended(t, time.Minute); code != 0 {
		t.Fatalf("pause: %d\n%s", code, pause.log.tail(5))
	}
	store(t, f.js, held, func(i int) *nats.Msg { return aLetter(fmt.Sprint("H", i), wire.ClassPaused).DeadLetter() })
	f.replayer()

	var worst time.Duration
	n := 0
	for start := time.Now(); time.Since(start) < lasts; n++ {
		r := fetchworker.Request{Provider: "polygon", Operation: "aggregates", Agent: "bob"}
		asked := time.Now()
		if err := f.ask(r, fmt.Sprint("R", n)); err != nil {
			t.Fatal(err)
		}
		r.ID = fmt.Sprint("R", n)
		a := f.final(r.Identity(), time.Minute)
		if a.Status != fetchworker.StatusOK || a.Calls != 2 {
			t.Fatalf("%s after %d calls", a.Status, a.Calls)
		}
		worst = max(worst, time.Since(asked))
	}
	t.Logf("%d retries of a second beside %d held letters: the slowest took %v", n, held, worst.Round(time.Millisecond))
	if worst > 1200*time.Millisecond+late {
		t.Errorf("a retry of a second took %v", worst)
	}
	until(t, 10*time.Second, "the crowd is held, and nothing else", func() bool { return f.count(wire.StreamDLQ) == held })
}

// TestAnActGoesOnThroughAnElection kills the server that leads the review while
// a paced act is in the middle of it, and starts it again after ten seconds:
// the act ends by itself, each item is done and written down once, and its
// progress tells that it waited.
func TestAnActGoesOnThroughAnElection(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("three servers that sync every write: with FETCH_CHAOS=full")
	}
	const items = 1000
	servers := threeServers(t)
	f := onServers(t, servers, 3)
	nc, err := nats.Connect(urls(t, servers, "replayer"), nats.CustomInboxPrefix("_INBOX_replayer"), nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	store(t, js, items, func(i int) *nats.Msg { return aLetter(fmt.Sprint("Q", i), wire.ClassTransient).ReviewItem() })

	act := launch(t, "replayer review requeue", program("replayer"), map[string]string{
		"NATS_URL": urls(t, servers, "operator"), "NATS_INBOX_PREFIX": "_INBOX_operator", "USER": "ann",
	}, "review", "requeue", "--all", "--rate", "50/s", "--yes", "--reason", "outage over")
	until(t, time.Minute, "the act is in the middle", func() bool { return f.count(wire.StreamDLQ) > items/4 })
	leader := f.leaderOf(wire.StreamReview, servers)
	leader.kill()
	killed := time.Now()
	time.Sleep(10 * time.Second)
	leader.start(t)
	if code := act.ended(t, 3*time.Minute); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	t.Logf("%s led the review and was away for 10 s; the act ended %v after that began\n%s", leader.name, time.Since(killed).Round(time.Second), act.log.tail(6))
	if !strings.Contains(act.log.tail(1000), "the server does not answer: waiting for") {
		t.Error("its progress does not tell that it waited")
	}
	until(t, time.Minute, "the cluster is whole again", f.whole)
	if letters, left := f.count(wire.StreamDLQ), f.count(wire.StreamReview); letters != items || left != 0 {
		t.Errorf("%d letters, %d items left", letters, left)
	}
	audit, err := f.js.OrderedConsumer(t.Context(), wire.StreamAudit, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]int{}
	for range f.count(wire.StreamAudit) {
		var m jetstream.Msg
		until(t, time.Minute, "the audit is read", func() (ok bool) { // its leader may just be chosen
			m, err = audit.Next(jetstream.FetchMaxWait(5 * time.Second))
			return err == nil
		})
		var line struct {
			ID      string `json:"id"`
			Outcome string `json:"outcome"`
		}
		if err := json.Unmarshal(m.Data(), &line); err != nil {
			t.Fatal(err)
		}
		lines[line.ID]++
		if line.Outcome != "" || lines[line.ID] > 1 {
			t.Errorf("the audit says of %s a %d. time: %s", line.ID, lines[line.ID], m.Data())
		}
	}
	if len(lines) != items {
		t.Errorf("%d items in the audit, want %d", len(lines), items)
	}
}
