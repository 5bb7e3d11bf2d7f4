package dial_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"fetchworker/internal/broker"
	"fetchworker/internal/dial"
)

func TestAnAddressIsShownWithoutItsSecret(t *testing.T) {
	for url, want := range map[string]string{
		"nats://127.0.0.1:4222":                        "nats://127.0.0.1:4222",
		"127.0.0.1":                                    "127.0.0.1",
		"a:4222, tls://b:4222":                         "a:4222,tls://b:4222",
		"nats://worker:s3cret@nats:4222":               "nats://worker:xxxxx@nats:4222",
		"worker:s3cret@nats:4222":                      "worker:xxxxx@nats:4222",
		"s3cret@nats:4222":                             "xxxxx@nats:4222",
		"nats://s3cret@nats:4222":                      "nats://xxxxx@nats:4222",
		"nats://u:s3cret@a:1,nats://u:s3cret@b:2":      "nats://u:xxxxx@a:1,nats://u:xxxxx@b:2",
		"nats://a:1,nats://u:s3cret@b:2":               "nats://a:1,nats://u:xxxxx@b:2",
		"u:s3cret@a:1,u:s3cret@b:2":                    "u:xxxxx@a:1,u:xxxxx@b:2",
		"nats://u:s3cret@s3cret@a:1":                   "nats://u:xxxxx@a:1",
		"nats://u:12#s3cret@a:1":                       "nats://u:xxxxx@a:1",
		"nats://u:s3cret/s3cret@a:1":                   "nats://u:xxxxx@a:1",
		"nats://u:s3cret,s3cret@a:1":                   "xxxxx,xxxxx@a:1",
		"nats://u:%zzs3cret@[::1]:1":                   "nats://u:xxxxx@[::1]:1",
		"nats://u:s3cret@a:1/path?token=s3cret#s3cret": "nats://u:xxxxx@a:1",
		"ws://u:s3cret@a:1":                            "ws://u:xxxxx@a:1",
	} {
		got := dial.Address{URL: url}.Redacted()
		if got != want || strings.Contains(got, "s3cret") {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

func TestAnAddressThatCannotBeReadIsToldWithoutItsSecret(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	contexts := filepath.Join(home, "nats", "context")
	if err := os.MkdirAll(contexts, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(contexts, "work.json"), []byte(`{"url":"nats://u:s3cret/s3cret@a:1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range []dial.Address{{URL: "nats://u:s3cret/s3cret@a:1"}, {URL: "u:s3cret/s3cret@a:1"}, {Context: "work"}} {
		_, err := broker.Connect(t.Context(), a, zap.NewNop(), func(error) {})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", a, err)
		}
	}
}
