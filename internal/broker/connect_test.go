package broker_test

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// Where nobody listens one line says so at once and every ten seconds, and the
// error at the end says where that was; none has the password.
func TestAStartThatFindsNobodySaysWhere(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		begun := time.Now()
		_, err := broker.Connect(t.Context(), broker.Address{URL: "nats://worker:s3cret@" + addr}, zap.New(core), nil)
		took := time.Since(begun)
		if err == nil || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "s3cret") || took < 29*time.Second || took > 31*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		said := logs.FilterMessage("waiting for NATS").All()
		if len(said) < 3 || len(said) > 4 { // the last one comes with the end
			t.Errorf("%d lines in half a minute", len(said))
		}
		for i, line := range said {
			at, _ := line.ContextMap()["at"].(string)
			if late := line.Time.Sub(begun) - time.Duration(i)*10*time.Second; late < 0 || late > time.Second || !strings.Contains(at, addr) || strings.Contains(at, "s3cret") {
				t.Errorf("line %d %v late: %v", i, late, line.ContextMap())
			}
		}
	})
}
