package page

import (
	"regexp"
	"testing"
	"time"

	"fetchworker"
)

// A moment to come is told with its clock and how far it is; one that is over is
// never told as to come, nor one to come as over.
func TestWhatIsToComeIsToldSo(t *testing.T) {
	now := time.Date(2026, 11, 30, 16, 11, 0, 0, time.UTC)
	for want, c := range map[string]struct {
		word, over string
		at         time.Duration
	}{
		"until 17:11:00Z (in 1h)":               {"until", "until now", time.Hour},
		"until now":                             {"until", "until now", 0},
		"a probe is due":                        {"next probe at", "a probe is due", -29 * time.Second},
		"next probe at 16:11:30Z (in 30s)":      {"next probe at", "a probe is due", 30 * time.Second},
		"due at 2026-12-02 16:11:00Z (in 2d0h)": {"due at", "due now", 48 * time.Hour},
		"16:12:00Z (in 1m)":                     {"", "now", time.Minute},
	} {
		got := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(string(coming(c.word, c.over, now.Add(c.at), now)), "")
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Each reason to wait is told in words, and no two in the same.
func TestReasonsToWaitHaveWords(t *testing.T) {
	told := map[string]fetchworker.Reason{}
	for _, r := range []fetchworker.Reason{
		fetchworker.ReasonCircuitOpen, fetchworker.ReasonPaused, fetchworker.ReasonThrottled, fetchworker.ReasonQuota,
		fetchworker.ReasonUnauthorized, fetchworker.ReasonNoWorker, fetchworker.ReasonRetry, fetchworker.ReasonPending,
	} {
		text := waitsFor(r)
		if text == string(r) || told[text] != "" {
			t.Errorf("%s is told as %q, as %s", r, text, told[text])
		}
		told[text] = r
	}
	if got := waitsFor("newer"); got != "newer" {
		t.Errorf("one of a newer version is told as %q", got)
	}
}
