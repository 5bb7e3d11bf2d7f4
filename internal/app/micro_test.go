package app_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/app"
	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestTheFleetIsSeenAsAMicroService(t *testing.T) {
	b := brokertest.Start(t)
	instance := app.Instance{
		Service: "fetchworker", Version: "dev", Metadata: map[string]string{"worker": "w-1"},
		State: func() any { return map[string]int{"in_flight": 3} },
	}
	stop, err := app.Announce(b.NC, instance)
	if err != nil {
		t.Fatal(err)
	}
	var info micro.Info
	ask(t, b, "$SRV.INFO.fetchworker", &info)
	if info.Name != "fetchworker" || info.Version != "0.0.0-dev" || info.Metadata["worker"] != "w-1" {
		t.Errorf("%+v", info)
	}
	var stats micro.Stats
	ask(t, b, "$SRV.STATS.fetchworker", &stats)
	if len(stats.Endpoints) != 1 || string(stats.Endpoints[0].Data) != `{"in_flight":3}` {
		t.Errorf("%+v", stats)
	}
	var state map[string]int
	ask(t, b, app.StateSubject, &state)
	if state["in_flight"] != 3 {
		t.Errorf("%v", state)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.NC.Request("$SRV.PING", nil, time.Second); err == nil {
		t.Error("it is still on the list")
	}
}

func ask(t *testing.T, b *brokertest.Broker, subject string, into any) {
	t.Helper()
	m, err := b.NC.Request(subject, nil, 5*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if err := json.Unmarshal(m.Data, into); err != nil {
		t.Fatalf("%s: %v in %s", subject, err, m.Data)
	}
}

func TestTheStartsLogHoldsNoPassword(t *testing.T) {
	env := map[string]string{"NATS_URL": "nats://worker:geheim@n1:4222,nats://tok3n@n2:4222", "NATS_INBOX_PREFIX": "_INBOX_worker"}
	config, err := app.Load(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.InfoLevel)
	zap.New(core).Info("configuration", config.Fields()...)
	line, err := json.Marshal(logs.All()[0].ContextMap())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"geheim", "tok3n"} {
		if strings.Contains(string(line), secret) {
			t.Errorf("%s", line)
		}
	}
	if !strings.Contains(string(line), "n1:4222") || !strings.Contains(string(line), "n2:4222") {
		t.Errorf("the servers are not named: %s", line)
	}
}
