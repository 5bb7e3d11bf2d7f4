package app

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"
)

// What README lists is read by every program, or known as a worker's.
func TestNoVariableOfOursIsTaken(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	e := WatchEnvironment(func(string) string { return "" })
	if _, err := Load(e.Get); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(FETCH_[A-Z_]+)`").FindAllStringSubmatch(string(text), -1) {
		names = append(names, row[1])
	}
	if got := mistyped(names, e.known(), []string{"FETCH_"}); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if some := 20; len(names) < some {
		t.Errorf("only %q are found", names)
	}
	for _, name := range ofWorkers {
		if e.read[name] || !slices.Contains(names, name) {
			t.Errorf("%s is no variable that only workers read: README has %q, all read %q", name, names, slices.Sorted(maps.Keys(e.read)))
		}
	}
}

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
