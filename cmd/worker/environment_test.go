package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestAMistypedVariableIsNamed(t *testing.T) {
	read := map[string]bool{"FMP_REQUESTS_PER_MINUTE": true, "FMP_API_KEY": true, "FETCH_RETRIES": true, "FETCH_RESULT_AGE": true, "NATS_URL": true, "NATS_CREDS": true, "NATS_CONTEXT": true, "NATS_INBOX_PREFIX": true}
	got := mistyped([]string{
		"FMP_REQUEST_PER_MINUTE", "FMP_APIKEY", "FETCH_RETRY", "FETCH_RETRIES", "FMPX", "PATH", "FETCH_SOMETHING_OF_THE_FUTURE", "NATS_ALICE_PASSWORD",
		"NATS_URI", "NATS_CRED", "NATS_INBOXPREFIX", "NATS_USER", "NATS_PASSWORD", "NATS_CERT", "NATS_KEY", "NATS_NKEY", "NATS_CA", "NATS_TIMEOUT", "NATS_COLOR",
		"NATS_WORKER_PASSWORD", "NATS_ROUTE_PASSWORD",
	}, read, []string{"FETCH_", "FMP_"})
	want := []string{
		"FETCH_RETRY is set, and nothing reads it: did you mean FETCH_RETRIES?",
		"FETCH_SOMETHING_OF_THE_FUTURE is set, and nothing reads it",
		"FMP_APIKEY is set, and nothing reads it: did you mean FMP_API_KEY?",
		"FMP_REQUEST_PER_MINUTE is set, and nothing reads it: did you mean FMP_REQUESTS_PER_MINUTE?",
		"NATS_CRED is set, and nothing reads it: did you mean NATS_CREDS?",
		"NATS_INBOXPREFIX is set, and nothing reads it: did you mean NATS_INBOX_PREFIX?",
		"NATS_URI is set, and nothing reads it: did you mean NATS_URL?",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

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
