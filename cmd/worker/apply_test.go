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
		for _, stream := range []string{fetchworker.StreamRequests, fetchworker.StreamAudit, "KV_" + fetchworker.BucketCache} {
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
	if _, err := js.Consumer(t.Context(), fetchworker.StreamDLQ, broker.ReplayerConsumer); err != nil {
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
