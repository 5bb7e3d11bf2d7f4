package broker_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/dial"

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
		_, err := broker.Connect(t.Context(), dial.Address{URL: "nats://worker:s3cret@" + addr}, zap.New(core), nil)
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

// What can never be a server's address is told at once, whatever a start waits for
// otherwise, and without what may be a password.
func TestAnAddressThatIsNoneIsToldAtOnce(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	contexts := filepath.Join(home, "nats", "context")
	if err := os.MkdirAll(contexts, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"broken": `{"url":`, "scheme": `{"url":"foo://worker:s3cret@127.0.0.1:1"}`, "ca": `{"url":"tls://127.0.0.1:1","ca":"/nowhere/ca.pem"}`,
		"nkey": `{"url":"nats://127.0.0.1:1","nkey":"/nowhere/seed"}`, "creds": `{"url":"nats://127.0.0.1:1","creds":"~/nowhere.creds"}`, "good": `{"url":"nats://worker:s3cret@127.0.0.1:1"}`,
	} {
		if err := os.WriteFile(filepath.Join(contexts, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		a    dial.Address
		says string // "": it is waited for
	}{
		"a scheme that is none":     {dial.Address{URL: "foo://x"}, "foo://x"},
		"the web's":                 {dial.Address{URL: "https://worker:s3cret@nats.example.com"}, "nats.example.com"},
		"one of two":                {dial.Address{URL: "nats://127.0.0.1:1, http://127.0.0.1:2"}, "http://127.0.0.1:2"},
		"of both kinds":             {dial.Address{URL: "nats://127.0.0.1:1,ws://127.0.0.1:2"}, "all of them"},
		"a port that is none":       {dial.Address{URL: "nats://worker:s3cret@127.0.0.1:port"}, "cannot be read"},
		"a password with a percent": {dial.Address{URL: "nats://worker:s3cret%@127.0.0.1:1"}, "cannot be read"},
		"a slash in a token":        {dial.Address{URL: "nats://s3cret/s3cret@127.0.0.1:1"}, "cannot be read"},
		"a question in a token":     {dial.Address{URL: "nats://s3cret?s3cret@127.0.0.1:1"}, "cannot be read"},
		"a hash in a token":         {dial.Address{URL: "s3cret#s3cret@127.0.0.1:1"}, "cannot be read"},
		"a context that is none":    {dial.Address{Context: "nope"}, `unknown context "nope"`},
		"no name of a context":      {dial.Address{Context: "../good"}, "invalid context name"},
		"a broken context":          {dial.Address{Context: "broken"}, "the context broken"},
		"a context's scheme":        {dial.Address{Context: "scheme"}, "the context scheme"},
		"a context's certificates":  {dial.Address{Context: "ca"}, "/nowhere/ca.pem"},
		"a context's key":           {dial.Address{Context: "nkey"}, "/nowhere/seed"},
		"credentials that are none": {dial.Address{URL: "nats://127.0.0.1:1", Creds: "/nowhere/worker.creds"}, "/nowhere/worker.creds"},
		"a context's credentials":   {dial.Address{Context: "creds"}, "nowhere.creds"},

		"an address":         {dial.Address{URL: "nats://worker:s3cret@127.0.0.1:1"}, ""},
		"without a scheme":   {dial.Address{URL: "127.0.0.1:1"}, ""},
		"encrypted":          {dial.Address{URL: "tls://127.0.0.1:1"}, ""},
		"in capitals":        {dial.Address{URL: "NATS://127.0.0.1:1"}, ""},
		"over the web's":     {dial.Address{URL: "ws://127.0.0.1:1,wss://127.0.0.1:2"}, ""},
		"a list with spaces": {dial.Address{URL: " nats://127.0.0.1:1 ,, 127.0.0.1:2, "}, ""},
		"a context":          {dial.Address{Context: "good"}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zap.InfoLevel)
			begun := time.Now()
			_, err := broker.Connect(t.Context(), c.a, zap.New(core), nil)
			if took := time.Since(begun); err == nil || errors.Is(err, dial.ErrAddress) != (c.says != "") || (took == 0) != (c.says != "") || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: after %v: %v", name, took, err)
			}
			if waited := logs.Len() > 0; waited != (c.says == "") {
				t.Errorf("%s: %d lines in the log", name, logs.Len())
			}
		})
	}
}
