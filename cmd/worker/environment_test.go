package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"fetchworker/internal/dial"
)

func TestCheckNamesAMistypedVariable(t *testing.T) {
	t.Setenv("FRED_REQUEST_PER_MINUTE", "5")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"check"}, env("FRED_REQUEST_PER_MINUTE", "5"), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "FRED_REQUEST_PER_MINUTE is set, and nothing reads it: did you mean FRED_REQUESTS_PER_MINUTE?"; !strings.Contains(out.String(), want) {
		t.Errorf("not told: %s", out.String())
	}
}

// A server that can be none is told at once, and not waited for.
func TestAServerThatCanBeNoneIsToldAtOnce(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for variable, value := range map[string]string{"NATS_URL": "foo://127.0.0.1:1", "NATS_CONTEXT": "nope"} {
		var log bytes.Buffer
		err := run(t.Context(), nil, env("FETCH_HTTP_ADDR", "off", "FETCH_GATEWAY", "off", variable, value), io.Discard, &log)
		if !errors.Is(err, dial.ErrAddress) || strings.Contains(log.String(), "waiting for NATS") {
			t.Errorf("%s=%s: %v: %s", variable, value, err, log.String())
		}
	}
	for _, args := range [][]string{{"help", "nonsense"}, {"help", "agent", "nonsense", "more"}} {
		if err := run(t.Context(), args, env(), io.Discard, io.Discard); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), "unknown command") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
