package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
)

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "7d": 168 * time.Hour, "1.5d": 36 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := span(text); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "7", "soon", "1hd", "1h30d", "213504d", "-213504d", "1e300d", "NaNd", "Infd", "2000000h", "0x10d"} {
		if _, err := span(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "5": 5, "5/s": 5, "300/min": 5, "2.5/s": 2.5, "36/h": 0.01} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "5/day", "x/s", "Inf", "NaN"} {
		if _, err := parseRate(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestCallsTake(t *testing.T) {
	limits := ledger.Limits{{N: 2, Per: time.Second}, {N: 60, Per: time.Minute}}
	if got := operate.CallsTake(120, limits); got != 2*time.Minute {
		t.Error(got)
	}
	if got := operate.CallsTake(120, nil); got != 0 {
		t.Error(got)
	}
}

func TestRunsOut(t *testing.T) {
	now := time.Date(2026, 11, 11, 0, 0, 0, 0, time.UTC) // ten days gone
	for name, c := range map[string]struct {
		used, limit int64
		want        time.Time
	}{
		"half used after a third": {50, 100, time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)},
		"enough":                  {30, 100, time.Time{}},
		"enough for millennia":    {2_600, 50 << 30, time.Time{}},
		"to the end of the month": {1, 3, time.Time{}},
		"used up":                 {100, 100, now},
		"more than used up":       {150, 100, now},
		"no limit":                {100, 0, time.Time{}},
		"nothing used":            {0, 100, time.Time{}},
	} {
		if got := operate.RunsOut(c.used, c.limit, now); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A sheet must not calculate what an agent or a provider wrote.
func TestWhatOthersWroteIsHarmless(t *testing.T) {
	for text, want := range map[string]string{
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@x": "'@x", "": "", "a-b=c": "a-b=c",
		`x;=HYPERLINK("http://x")`: `x;'=HYPERLINK("http://x")`, "a\t=1": "a\t'=1", "a\n=1": "a\n'=1", "a; @b": "a; '@b", " =1": " '=1",
	} {
		if got := operate.Harmless(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestBytesThatAreNoTextAreNotLost(t *testing.T) {
	for body, kept := range map[string]bool{"{}": false, "no JSON, but a text: é": false, "{\"a\":\"\xff\"}": true} {
		l := letterLine{}.whole(browse.Found{Letter: dlq.Letter{Body: []byte(body)}})
		if (string(l.Raw) == body) != kept {
			t.Errorf("%q: %q", body, l.Raw)
		}
		if !json.Valid(l.Request) {
			t.Errorf("%q: %s", body, l.Request)
		}
	}
}

func TestRunReturnsExitCodes(t *testing.T) {
	var out, errs strings.Builder
	none := func(string) string { return "" }
	if code := run(t.Context(), []string{"nonsense"}, none, strings.NewReader(""), &out, &errs); code != exitUsage {
		t.Errorf("code %d", code)
	}
	c := &cli{errs: &errs, started: true}
	if code := c.exit(t.Context(), errors.New("x")); code != exitFailed {
		t.Errorf("code %d", code)
	}
}
