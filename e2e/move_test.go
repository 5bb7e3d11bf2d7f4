package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// TestEverythingMovesToServersOfOnesOwn: from an embedded server to one with
// accounts, or to three, with letters and requests waiting, and with the move
// killed in the middle. Nothing is lost, called again or beyond the limit.
func TestEverythingMovesToServersOfOnesOwn(t *testing.T) {
	begin(t)
	a := alone(t)
	a.env["FMP_REQUESTS_PER_MINUTE"] = fmt.Sprint(moveLimit)
	a.start()
	var answered []fetchworker.Identity
	for i := range 20 {
		id := fmt.Sprint("A", i)
		a.publish("alice", fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}}`, id, id))
		answered = append(answered, fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: id})
	}
	for _, id := range answered {
		a.final(id)
	}
	a.signal(t, syscall.SIGTERM)
	a.ended(t, 30*time.Second)
	b := brokertest.StartIn(t, a.env["FETCH_DATA_DIR"], "")
	waiting := fill(t, b.JS, pick(40, 1000))
	read := reads(t, b.JS, 8, 5)[:5]
	b.Stop()
	movesAll(t, a.env, a.upstream, answered, waiting, " messages, ", func() []string { return read })
}

// TestEverythingMovesFromServerToServers: the same from a server of its own
// process to another, or to three.
func TestEverythingMovesFromServerToServers(t *testing.T) {
	begin(t)
	_, nc, url := plainServer(t, t.TempDir())
	f := withServer(t, well(0), nc, nc, map[string]string{
		"NATS_URL": url, "FMP_REQUESTS_PER_MINUTE": fmt.Sprint(moveLimit),
		"FETCH_STREAM_BYTES": "requests=256MiB,results=256MiB,bodies=64MiB,cache=64MiB", // three servers may share a small disk
	})
	w := f.worker()
	for i := range 20 {
		f.quote("alice", fmt.Sprint("A", i))
	}
	for _, id := range f.accepted {
		f.final(id, 30*time.Second)
	}
	w.signal(t, syscall.SIGTERM)
	w.ended(t, 30*time.Second)
	waiting := fill(t, f.js, pick(40, 1000))
	read := reads(t, f.js, 8, 5)[:5]
	movesAll(t, f.env, f.upstream, f.accepted, waiting, fetchworker.StreamResults+": ", func() []string {
		return append(read, reads(t, f.js, 4, 4)...)
	})
}

// moveLimit is how many calls a minute the provider allows whose work moves.
const moveLimit = 1200

// movesAll moves what a worker with this environment has stored, and sees that
// what was answered stays so, what waits is called for once, and a subscriber
// that has acknowledged some goes on with the others: those that reads says after
// the move was killed, when it had said this.
func movesAll(t *testing.T, from map[string]string, upstream *providertest.Server, answered, waiting []fetchworker.Identity, killed string, reading func() []string) {
	t.Helper()
	servers, replicas := oneServer(t), 1
	if full {
		servers, replicas = threeServers(t), 3
	}
	env := maps.Clone(from)
	env["FETCH_REPLICAS"] = fmt.Sprint(replicas)
	run := func() *process {
		return launch(t, "worker move", program("worker"), env, "move", "--to", urls(t, servers, "admin"), "--to-inbox-prefix", "_INBOX_admin")
	}
	var p *process
	until(t, time.Minute, "a move begins", func() bool { // a cluster that is just starting has no leader yet
		p = run()
		for !p.gone() && p.log.find(killed) == "" {
			time.Sleep(5 * time.Millisecond)
		}
		return !p.gone()
	})
	p.kill()
	read := reading()
	admin := map[string]string{"NATS_URL": urls(t, servers, "admin"), "NATS_INBOX_PREFIX": "_INBOX_admin", "FETCH_REPLICAS": fmt.Sprint(replicas)}
	early := launch(t, "an early apply", program("worker"), admin, "apply")
	if code := early.ended(t, time.Minute); code != 1 || !strings.Contains(early.log.tail(5), broker.ErrMoving.Error()) {
		t.Errorf("in the middle of a move: exit code %d, %s", code, early.log.tail(5))
	}
	again := launch(t, "a worker at the old place", program("worker"), from)
	if code := again.ended(t, time.Minute); code != 1 || !strings.Contains(again.log.tail(5), broker.ErrMoved.Error()) {
		t.Errorf("at the old place: exit code %d, %s", code, again.log.tail(5))
	}
	begun := time.Now()
	if p = run(); p.ended(t, 3*time.Minute) != 0 {
		t.Fatal(p.log.tail(20))
	}
	took := time.Since(begun)
	if p = run(); p.ended(t, 3*time.Minute) != 0 { // once more harms nothing
		t.Error(p.log.tail(20))
	}

	f := onServers(t, servers, replicas)
	called := upstream.Calls()
	// What was acknowledged out of turn may come once more.
	const inTurn = 5
	var unread []string
	for _, id := range answered {
		if !slices.Contains(read, id.ID) {
			unread = append(unread, id.ID)
		}
	}
	goesOn := reads(t, f.js, len(unread), len(answered), unread...)
	reread := func(id string) bool { return slices.Contains(read[:inTurn], id) }
	missing := func(id string) bool { return !slices.Contains(goesOn, id) }
	if slices.ContainsFunc(goesOn, reread) || slices.ContainsFunc(unread, missing) {
		t.Errorf("a subscriber that has read %v goes on with %v", read, goesOn)
	}
	f.env["FMP_BASE_URL"], f.env["FMP_REQUESTS_PER_MINUTE"] = from["FMP_BASE_URL"], from["FMP_REQUESTS_PER_MINUTE"]
	f.upstream = upstream
	f.worker()
	f.replayer()
	for _, id := range answered {
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", Agent: id.Agent, MaxAge: new(fetchworker.Duration)}
		if err := f.ask(r, id.ID); err != nil {
			t.Error(err)
		}
	}
	f.accepted = append(f.accepted, waiting...)
	f.settled(5 * time.Minute)
	for _, id := range f.accepted {
		if calls := len(f.calls(id.ID)); calls != 1 {
			t.Errorf("%s: %d calls", id, calls)
		}
	}
	if after := reads(t, f.js, len(waiting), 0); len(after) < len(waiting) {
		t.Errorf("a subscriber hears of %d of %d answers", len(after), len(waiting))
	}
	f.inside(moveLimit)
	t.Logf("%d waiting and as many letters moved in %v, all answered: %d calls before, %d after", len(waiting)/2, took.Round(time.Millisecond), len(called), len(f.upstream.Calls())-len(called))
}

// reads is a subscriber with a durable consumer of its own: the ids of the next
// answers, so many and these, of which it acknowledges the first ones.
func reads(t *testing.T, js jetstream.JetStream, most, acks int, and ...string) (ids []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	consumer, err := js.CreateOrUpdateConsumer(ctx, fetchworker.StreamResults, jetstream.ConsumerConfig{
		Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second, MaxDeliver: -1, MaxAckPending: 10_000,
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	lacks := func(id string) bool { return !seen[id] }
	for quiet := false; !quiet && (len(seen) < most || slices.ContainsFunc(and, lacks)); {
		batch, err := consumer.Fetch(max(most-len(seen), 1), jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		quiet = true
		for m := range batch.Messages() {
			id := m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]
			if quiet = quiet && seen[id]; seen[id] {
				continue
			}
			seen[id] = true
			if ids = append(ids, id); len(ids) > acks {
				continue
			}
			if err := m.DoubleAck(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// fill stores waiting requests and letters where no worker runs.
func fill(t *testing.T, js jetstream.JetStream, n int) (ids []fetchworker.Identity) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	log := record.New(js, nil)
	for i := range n {
		waiting := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint("W", i)}
		body := fmt.Sprintf(`{"id":%q,"params":{"symbol":%q}}`, waiting.ID, waiting.ID)
		if _, err := js.Publish(ctx, "fetch.request.fmp.batch.quote.alice", []byte(body)); err != nil {
			t.Fatal(err)
		}
		parked := waiting
		parked.ID = fmt.Sprint("L", i)
		now := time.Now()
		l := dlq.Letter{
			Identity: parked, Lane: fetchworker.LaneBatch, Body: fmt.Appendf(nil, `{"id":%q,"params":{"symbol":%q}}`, parked.ID, parked.ID),
			Generation: 1, Class: wire.ClassPaused, Error: "paused", RequestedAt: now, FailedAt: now, NotBefore: now,
		}
		if err := dlq.Put(ctx, log, l); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, waiting, parked)
	}
	return ids
}
