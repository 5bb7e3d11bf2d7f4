package cache

import (
	"testing"
	"time"

	"fetchworker/internal/providers"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// TestWhatABodyIsGoodFor: whom a body answers, by when it was made, when it
// came and when the request was stored.
func TestWhatABodyIsGoodFor(t *testing.T) {
	const m = time.Minute
	for _, c := range []struct {
		name                    string
		made, came, stored, now time.Duration // since noon
		passing                 bool
		maxAge, limit           time.Duration
		fresh, within           bool
	}{
		{"young enough", 0, 0, 3 * m, 5 * m, false, 10 * m, 10 * m, true, true},
		{"as old as may be", 0, 0, 3 * m, 10 * m, false, 10 * m, 10 * m, true, true},
		{"too old", 0, 0, 3 * m, 11 * m, false, 10 * m, 10 * m, false, false},
		{"came after the request, whatever its age", 0, 4 * m, 3 * m, 11 * m, false, 0, 10 * m, true, false},
		{"came as the request did", 0, 3 * m, 3 * m, 11 * m, false, 0, 0, true, false},
		{"came before it, and nothing may be old", 0, 0, m, 2 * m, false, 0, 0, false, false},
		{"made now, and no stale one is accepted", 5 * m, 5 * m, 6 * m, 5 * m, false, 0, 0, true, false},
		{"passing, for who had asked", 0, 4 * m, 3 * m, 5 * m, true, 0, 10 * m, true, false},
		{"passing, for who asks later", 0, 0, 3 * m, 4 * m, true, 10 * m, 10 * m, false, false},
		{"old when it came", 0, 20 * m, 25 * m, 26 * m, false, 10 * m, 10 * m, false, false},
	} {
		e := &Entry{FetchedAt: noon.Add(c.made), CameAt: noon.Add(c.came), passing: c.passing}
		if got := e.Fresh(noon.Add(c.stored), noon.Add(c.now), c.maxAge); got != c.fresh {
			t.Errorf("%s: fresh %t", c.name, got)
		}
		if got := e.Within(c.limit, noon.Add(c.now)); got != c.within {
			t.Errorf("%s: within %t", c.name, got)
		}
	}
	var none *Entry
	if none.Fresh(noon, noon, time.Hour) || none.Within(time.Hour, noon) || none.Lasting() != nil {
		t.Error("nothing is good for something")
	}
	old := &Entry{FetchedAt: noon} // of a version that did not write down when it came
	if !old.Fresh(noon, noon.Add(time.Hour), 0) || old.Fresh(noon.Add(1), noon.Add(1), 0) {
		t.Error("without its coming a body came when it was made")
	}
}

// TestABodyKeepsWhatItCameWith: what is made of a call is what its 304 gives
// back.
func TestABodyKeepsWhatItCameWith(t *testing.T) {
	r := &providers.Result{
		FetchedAt: noon, Age: time.Minute, HTTPStatus: 203, ContentType: "text/csv", ETag: `"1"`, LastModified: "then", Body: []byte("a,b"),
		Next: []byte(`{"page":2}`), NextLoop: true, Redacted: true, Cacheable: true, Latency: 12 * time.Millisecond,
	}
	e := Of(r)
	if !e.FetchedAt.Equal(noon) || !e.CameAt.Equal(noon.Add(time.Minute)) || e.passing {
		t.Errorf("%+v", e)
	}
	again := &providers.Result{NotModified: true}
	e.Revive(again)
	if again.HTTPStatus != 203 || again.ContentType != "text/csv" || string(again.Body) != "a,b" || string(again.Next) != `{"page":2}` || !again.NextLoop || !again.Redacted || !again.Cacheable || again.ETag != `"1"` || again.LastModified != "then" {
		t.Errorf("%+v", again)
	}
	newer := &providers.Result{ETag: `"2"`, LastModified: "now"}
	if e.Revive(newer); newer.ETag != `"2"` || newer.LastModified != "now" {
		t.Errorf("%+v", newer)
	}
	if passing := Of(&providers.Result{}); !passing.passing {
		t.Error("what cannot be kept is")
	}
}
