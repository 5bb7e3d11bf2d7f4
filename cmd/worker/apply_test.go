package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats-server/v2/server"
)

func TestApplyCreatesTheTopologyAndCanBeRepeated(t *testing.T) {
	server, err := broker.Embed(broker.EmbedOptions{Listen: "127.0.0.1:0", DataDir: t.TempDir(), Sync: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Shutdown()
	for range 2 {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"apply"}, env("NATS_URL", server.URL()), &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, stream := range []string{fetchworker.StreamRequests, wire.StreamAudit, "KV_" + wire.BucketCache} {
			if !strings.Contains(out.String(), stream) {
				t.Errorf("nothing of %s in %s", stream, out.String())
			}
		}
	}
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := broker.JetStream(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Consumer(t.Context(), wire.StreamDLQ, broker.ReplayerConsumer); err != nil {
		t.Error(err)
	}
}

func TestApplyNeedsAServer(t *testing.T) {
	for _, args := range [][]string{{"apply"}, {"apply", "now"}} {
		if err := run(t.Context(), args, env(), io.Discard, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestApplySaysAtOnceWhatItMayNot(t *testing.T) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "worker", Password: "worker", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"$JS.API.STREAM.INFO.*"}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	started := time.Now()
	url := strings.Replace(s.ClientURL(), "nats://", "nats://worker:worker@", 1)
	err = run(t.Context(), []string{"apply"}, env("NATS_URL", url), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "STREAM.CREATE") || errors.Is(err, errUsage) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
