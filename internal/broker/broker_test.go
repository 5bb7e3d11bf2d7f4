package broker_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

var update = flag.Bool("update", false, "rewrite nats/streams/*.json from the topology in Go")

const goldenDir = "../../nats/streams"

func topology() []jetstream.StreamConfig {
	return broker.Streams(broker.Options{Replicas: 1, ResultAge: 168 * time.Hour})
}

func TestGoldenStreamsAreTheTopology(t *testing.T) {
	known := map[string]bool{}
	for _, config := range topology() {
		b, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, '\n')
		path := filepath.Join(goldenDir, config.Name+".json")
		known[config.Name+".json"] = true
		if *update {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, b) {
			t.Errorf("%s differs from the topology; run go test ./internal/broker -update", path)
		}
	}
	entries, err := os.ReadDir(goldenDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			t.Errorf("%s belongs to no stream", e.Name())
		}
	}
}

// What natscli does with --config FILE is to send the file's fields as the
// create request; the server takes them strictly, and they must then be the
// topology exactly.
func TestGoldenStreamsCanBeAddedAsTheyAre(t *testing.T) {
	e, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Shutdown()
	nc, err := e.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, config := range topology() {
		golden, err := os.ReadFile(filepath.Join(goldenDir, config.Name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := nc.Request("$JS.API.STREAM.CREATE."+config.Name, golden, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var created server.JSApiStreamCreateResponse
		if err := json.Unmarshal(reply.Data, &created); err != nil || created.Error != nil {
			t.Fatalf("%s: %v %v", config.Name, err, created.Error)
		}
	}
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range topology() {
		stream, err := js.Stream(t.Context(), config.Name)
		if err != nil {
			t.Fatal(err)
		}
		if d := broker.Differences(stream.CachedInfo().Config, config); len(d) > 0 {
			t.Errorf("%s as created: %s", config.Name, strings.Join(d, "; "))
		}
	}
}

func TestRequestsAreShardedByAgentAndAnswersRepublished(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	live, err := b.NC.SubscribeSync("fetch.result.>")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.Publish(ctx, "fetch.put.fmp.quote.alice.q1", []byte("x"), jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.JS.Publish(ctx, "fetch.put.fmp.quote.alice.q1", []byte("y"), jetstream.WithExpectLastSequencePerSubject(0)); err == nil {
		t.Error("a second answer with expected 0 was stored")
	}
	m, err := live.NextMsg(5 * time.Second)
	if err != nil || string(m.Data) != "x" || m.Subject != "fetch.result.fmp.quote.alice.q1" {
		t.Errorf("live copy: %v %v", m, err)
	}
	if m, err := live.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("the refused answer was seen live: %s", m.Data)
	}

	for _, agent := range []string{"alice", "bob", "alice"} {
		if _, err := b.JS.Publish(ctx, fetchworker.RequestSubject("fmp", "batch", "quote", agent), nil); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := b.JS.Stream(ctx, fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	shards := map[string]int{}
	for seq := uint64(1); seq <= 3; seq++ {
		raw, err := stream.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		a, err := wire.ParseSubject(raw.Subject)
		if err != nil {
			t.Fatal(err)
		}
		if shard, seen := shards[a.Agent]; seen && shard != a.Shard {
			t.Errorf("%s is in shards %d and %d", a.Agent, shard, a.Shard)
		}
		shards[a.Agent] = a.Shard
	}
}

// Identical makings may race; what is there is found, and an earlier version's
// gets the time after which the server takes it away.
func TestConsumersAreMadeWhereTheyAreMissing(t *testing.T) {
	b := brokertest.Start(t)
	config := broker.RequestConsumer("fmp", fetchworker.LaneBatch, 3, broker.Held(120))
	var made atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			since, created, err := broker.MakeConsumer(t.Context(), b.JS, config)
			if err != nil || time.Since(since) > time.Minute {
				t.Error(since, err)
			}
			if created {
				made.Add(1)
			}
		})
	}
	group.Wait()
	if made.Load() < 1 {
		t.Error("nobody made it")
	}
	first, created, err := broker.MakeConsumer(t.Context(), b.JS, config)
	if err != nil || created {
		t.Error("it was made twice", err)
	}
	earlier := config
	earlier.InactiveThreshold = 0
	if _, err := b.JS.UpdateConsumer(t.Context(), fetchworker.StreamRequests, earlier); err != nil {
		t.Fatal(err)
	}
	if n, err := broker.Adopt(t.Context(), b.JS, func(provider string) bool { return provider == "other" }); n != 0 || err != nil {
		t.Error("another provider's was adopted", n, err)
	}
	if n, err := broker.Adopt(t.Context(), b.JS, func(provider string) bool { return provider == "fmp" }); n != 1 || err != nil {
		t.Error(n, err)
	}
	if _, err := b.JS.UpdateConsumer(t.Context(), fetchworker.StreamRequests, earlier); err != nil { // once more: whoever needs it sees to it, too
		t.Fatal(err)
	}
	if since, _, err := broker.MakeConsumer(t.Context(), b.JS, config); err != nil || !since.Equal(first) {
		t.Error(since, first, err)
	}
	c, err := b.JS.Consumer(t.Context(), fetchworker.StreamRequests, config.Durable)
	if err != nil || c.CachedInfo().Config.InactiveThreshold != broker.ConsumerRest {
		t.Error(c.CachedInfo().Config, err)
	}
	if err := broker.MayServe(t.Context(), b.JS, "fmp"); err != nil {
		t.Error(err)
	}
	if err := broker.RetireProvider(t.Context(), b.JS, "fmp"); err != nil {
		t.Fatal(err)
	}
	stream, err := b.JS.Stream(t.Context(), fetchworker.StreamRequests)
	if err != nil || stream.CachedInfo().State.Consumers != 0 {
		t.Errorf("consumers left after retire, or made by a look at rights: %v", err)
	}
}

// A work queue hides a message whose deliveries have run out, for ever: no consumer
// of ours has a last one.
func TestNoConsumerHasALastDelivery(t *testing.T) {
	b := brokertest.Start(t)
	if err := broker.ServeDLQ(t.Context(), b.JS); err != nil {
		t.Fatal(err)
	}
	letters, err := b.JS.Consumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer)
	if err != nil {
		t.Fatal(err)
	}
	all := []jetstream.ConsumerConfig{letters.CachedInfo().Config}
	for _, configs := range broker.ProviderConsumers("fmp", 16) {
		all = append(all, configs...)
	}
	for _, c := range all {
		if c.MaxDeliver != -1 || c.AckPolicy != jetstream.AckExplicitPolicy || c.AckWait != broker.AckWait {
			t.Errorf("%s: at most %d deliveries, %v within %v", c.Durable, c.MaxDeliver, c.AckPolicy, c.AckWait)
		}
	}
}

func TestServedProvider(t *testing.T) {
	for consumer, want := range map[string]string{
		"fmp-interactive-7": "fmp", "my-batch-api-batch-0": "my-batch-api", "fmp-replay": "", "x-interactive-y": "", "": "",
	} {
		if got := broker.ServedProvider(consumer); got != want {
			t.Errorf("%q: %q, want %q", consumer, got, want)
		}
	}
}

func TestEmbeddedServerListensOnLoopbackOnly(t *testing.T) {
	if _, err := broker.Embed(broker.EmbedOptions{DataDir: t.TempDir(), Listen: "0.0.0.0:0"}); err == nil {
		t.Fatal("it listens to the world")
	}
}
