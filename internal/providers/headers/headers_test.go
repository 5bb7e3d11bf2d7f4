package headers

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var now = time.Date(2026, 2, 13, 12, 0, 0, 0, time.UTC)

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func date(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }

// How long a hold may last, by what was sent.
func TestHoldOf(t *testing.T) {
	unix := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	millis := func(d time.Duration) string { return fmt.Sprint(now.Add(d).UnixMilli()) }
	for _, test := range []struct {
		sent    http.Header
		status  int
		longest time.Duration
		want    time.Duration
	}{
		{header(), 429, 0, 0},
		{header("Retry-After", "120"), 429, time.Minute, 2 * time.Minute},
		{header("Retry-After", " 5 "), 429, 0, 5 * time.Second},
		{header("Retry-After", "1.5"), 429, 0, 1500 * time.Millisecond},
		{header("Retry-After", "0"), 429, 0, 0},
		{header("Retry-After", "-5"), 429, 0, 0},
		{header("Retry-After", "soon"), 429, 0, 0},
		{header("Retry-After", "NaN"), 429, 0, 0},
		{header("Retry-After", "0x10"), 429, 0, 0},
		// A window of a day may be waited for, one of a minute not for a day.
		{header("Retry-After", "9999999999"), 429, time.Minute, 15 * time.Minute},
		{header("Retry-After", "99999999999999999999999"), 429, time.Hour, time.Hour},
		{header("Retry-After", "80000"), 429, 24 * time.Hour, 80000 * time.Second},
		{header("Retry-After", "Tue, 01 Jan 2055 00:00:00 GMT"), 429, time.Minute, 15 * time.Minute},
		{header("Retry-After", date(90*time.Second)), 429, 0, 90 * time.Second},
		{header("Retry-After", date(-time.Hour)), 429, 0, 0},
		{header("Retry-After", "2026-02-13T12:01:00Z"), 429, 0, time.Minute},
		{header("Retry-After", unix(30*time.Second)), 429, 0, 30 * time.Second},
		{header("Retry-After", millis(30*time.Second)), 429, 0, 30 * time.Second},
		// The server's clock is what its date is relative to.
		{header("Retry-After", date(time.Hour+time.Minute), "Date", date(time.Hour)), 429, 0, time.Minute},
		// Of several values the longest that makes sense.
		{header("Retry-After", "4", "Retry-After", "600"), 429, 0, 10 * time.Minute},
		{header("Retry-After", "600, 4"), 429, 0, 10 * time.Minute},
		{header("Retry-After", "4", "Retry-After", "soon"), 429, 0, 4 * time.Second},
		{header("Retry-After", "4", "Retry-After", date(time.Minute)), 429, 0, time.Minute},
		// Without one, on a 429, when the count starts anew.
		{header("X-RateLimit-Reset", "20"), 429, 0, 20 * time.Second},
		{header("X-RateLimit-Reset", unix(20*time.Second)), 429, 0, 20 * time.Second},
		{header("X-RateLimit-Reset", millis(20*time.Second)), 429, 0, 20 * time.Second},
		{header("X-RateLimit-Reset", "2026-02-13T12:00:20Z"), 429, 0, 20 * time.Second},
		{header("RateLimit-Reset", "20", "X-RateLimit-Reset", "10"), 429, 0, 20 * time.Second},
		{header("RateLimit", `"default";r=0;t=20`), 429, 0, 20 * time.Second},
		{header("RateLimit", `"a";r=0;t=5, "b";r=0;t=20`), 429, 0, 20 * time.Second},
		{header("RateLimit", `limit=100, remaining=0, reset=20`), 429, 0, 20 * time.Second},
		{header("Retry-After", "4", "X-RateLimit-Reset", "20"), 429, 0, 4 * time.Second},
		{header("X-RateLimit-Reset", "20"), 503, 0, 0},
		{header("X-RateLimit-Reset", "20"), 200, 0, 0},
		// A server that is down is believed for up to an hour.
		{header("Retry-After", "300"), 503, 0, 5 * time.Minute},
		{header("Retry-After", "300"), 529, 0, 5 * time.Minute},
		{header("Retry-After", "1800"), 503, time.Minute, 30 * time.Minute},
		{header("Retry-After", "80000"), 503, 24 * time.Hour, time.Hour},
	} {
		got := HoldOf(test.sent, test.status, test.longest, now)
		if got.Wait != test.want {
			t.Errorf("%d %v with a window of %v: %v, want %v", test.status, test.sent, test.longest, got.Wait, test.want)
		}
		if got.Wait > 0 && got.Sent == "" {
			t.Errorf("%v: what was sent is not told", test.sent)
		}
	}
	if got := HoldOf(header("Retry-After", "4", "Retry-After", "9999999999"), 429, 0, now); got.Sent != "Retry-After: 4, 9999999999" {
		t.Errorf("sent: %q", got.Sent)
	}
}

// What cannot be read is told as it was sent: why the wait is ours is seen by it.
func TestWhatCannotBeReadIsToldAsItWasSent(t *testing.T) {
	for _, test := range []struct {
		sent   http.Header
		status int
		want   string
	}{
		{header("Retry-After", "soon"), 429, "Retry-After: soon"},
		{header("Retry-After", "-5"), 429, "Retry-After: -5"},
		{header("Retry-After", "7s", "Retry-After", "NaN"), 429, "Retry-After: 7s, NaN"},
		{header("Retry-After", "soon"), 529, "Retry-After: soon"},
		{header("Retry-After", "soon", "X-RateLimit-Reset", "later"), 429, "Retry-After: soon"},
		{header("Retry-After", "soon", "X-RateLimit-Reset", "20"), 429, "X-RateLimit-Reset: 20"},
		{header("X-RateLimit-Reset", "1m30s"), 429, "X-RateLimit-Reset: 1m30s"},
		{header("RateLimit-Reset", "-1"), 403, "RateLimit-Reset: -1"},
		{header("RateLimit", `"default";r=0;t=abc`), 429, `RateLimit: "default";r=0;t=abc`},
		{header("X-Again", "later"), 429, "X-Again: later"},
		{header("X-RateLimit-Reset", "later"), 503, ""}, // of a count it says nothing with a 503
		{header("Retry-After", ""), 429, ""},
		{header(), 429, ""},
	} {
		if got := HoldOf(test.sent, test.status, 0, now, "X-Again"); got.Sent != test.want {
			t.Errorf("%d %v: %q, want %q", test.status, test.sent, got.Sent, test.want)
		}
	}
}

func TestCounts(t *testing.T) {
	for _, test := range []struct {
		sent http.Header
		want Count
	}{
		{header("X-RateLimit-Remaining", "3"), Count{-1, 3, -1, 0}},
		{header("X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "3", "X-RateLimit-Reset", "30"), Count{60, 3, 30 * time.Second, 0}},
		{header("X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "3", "X-RateLimit-Reset", fmt.Sprint(now.Add(45*time.Second).UnixMilli())), Count{60, 3, 45 * time.Second, 0}},
		{header("X-RateLimit-Remaining", "3", "X-RateLimit-Reset", date(30*time.Second)), Count{-1, 3, 30 * time.Second, 0}},
		{header("X-RateLimit-Remaining", "3", "X-RateLimit-Reset", "later"), Count{-1, 3, -1, 0}},
		// The server's clock is what its moments are relative to.
		{header("X-RateLimit-Remaining", "3", "X-RateLimit-Reset", date(time.Hour+time.Minute), "Date", date(time.Hour)), Count{-1, 3, time.Minute, 0}},
		{header("RateLimit", "limit=9, remaining=3, reset="+fmt.Sprint(now.Add(-time.Hour+time.Minute).Unix()), "Date", date(-time.Hour)), Count{9, 3, time.Minute, 0}},
		{header("RateLimit-Limit", "10, 10;w=1, 50;w=60", "RateLimit-Remaining", "3"), Count{10, 3, -1, 0}},
		{header("RateLimit-Limit", "10;w=60", "RateLimit-Remaining", "3"), Count{10, 3, -1, time.Minute}},
		{header("RateLimit", `"d";r=50;t=30`, "RateLimit-Policy", `"d";q=100;w=60, "e";q=7;w=1`), Count{100, 50, 30 * time.Second, time.Minute}},
		{header("RateLimit", `limit=100, remaining=50, reset=30`), Count{100, 50, 30 * time.Second, 0}},
		{header("X-RateLimit-Limit", "99999999999999", "X-RateLimit-Remaining", "99999999999999"), Count{1 << 30, 1 << 30, -1, 0}},
	} {
		if got := Counts(test.sent, now); len(got) != 1 || got[0] != test.want {
			t.Errorf("%v: %v, want %v", test.sent, got, test.want)
		}
	}
	for _, nothing := range []http.Header{header(), header("X-RateLimit-Limit", "60"), header("X-RateLimit-Remaining", "-1"), header("X-RateLimit-Remaining", "many"), header("RateLimit", "x;y=z")} {
		if got := Counts(nothing, now); len(got) > 0 {
			t.Errorf("%v: %v, want nothing", nothing, got)
		}
	}
}

func TestAge(t *testing.T) {
	for _, test := range []struct {
		sent http.Header
		want time.Duration
	}{
		{header(), 0},
		{header("Age", "600"), 10*time.Minute + time.Second},
		{header("Age", "-1"), 0},
		{header("Age", "old"), 0},
		{header("Date", date(0)), 0},
		{header("Date", date(-time.Second)), 0},
		{header("Date", date(time.Hour)), 0},
		{header("Date", date(-4*time.Minute)), 4 * time.Minute},
		{header("Date", date(-25*time.Hour)), 0},
		{header("Date", date(-4*time.Minute), "Age", "60"), 4 * time.Minute},
		{header("Date", date(-10*time.Second), "Age", "60"), 61 * time.Second},
	} {
		if got := Age(test.sent, now.Add(-time.Second), now); got != test.want {
			t.Errorf("%v: %v, want %v", test.sent, got, test.want)
		}
	}
}

// Whatever is sent, nothing breaks, and a hold is never negative or beyond
// what is believed.
func TestAnythingIsBounded(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"1e400", "-0", "1e9", "9999999999999999", `"a";r=1;t=1e99`, ";;=,=;", date(0), "0000-00-00T00:00:00Z"}))
	rapid.Check(t, func(t *rapid.T) {
		h := http.Header{}
		for _, name := range []string{"Retry-After", "X-Ratelimit-Reset", "X-Ratelimit-Remaining", "X-Ratelimit-Limit", "Ratelimit", "Ratelimit-Policy", "Age", "Date"} {
			h[name] = rapid.SliceOfN(text, 0, 3).Draw(t, name)
		}
		if hold := HoldOf(h, 429, 0, now); hold.Wait < 0 || hold.Wait > leastLongest {
			t.Fatalf("%v: %v", h, hold)
		}
		for _, count := range Counts(h, now) {
			if count.Reset < -1 || count.Remaining < -1 {
				t.Fatalf("%v: %v", h, count)
			}
		}
		if age := Age(h, now, now); age < 0 {
			t.Fatalf("%v: %v", h, age)
		}
	})
}
