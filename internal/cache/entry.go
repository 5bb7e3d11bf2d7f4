package cache

import (
	"encoding/json"
	"strconv"
	"time"

	"fetchworker/internal/memory"
	"fetchworker/internal/providers"
	"fetchworker/internal/providers/scan"
)

// Entry is a body that a provider sent, and when.
type Entry struct {
	FetchedAt    time.Time       `json:"fetched_at"`       // when the origin made it
	CameAt       time.Time       `json:"came_at,omitzero"` // when it came; zero in what older versions kept
	HTTPStatus   int             `json:"http_status"`
	ContentType  string          `json:"content_type,omitempty"`
	ETag         string          `json:"etag,omitempty"`
	LastModified string          `json:"last_modified,omitempty"`
	Next         json.RawMessage `json:"next,omitempty"`
	NextLoop     bool            `json:"next_loop,omitempty"`
	Redacted     bool            `json:"redacted,omitempty"`
	LatencyMS    int64           `json:"latency_ms,omitempty"`
	Plain        bool            `json:"plain,omitempty"` // as a value in the bucket: the body is not compressed
	Bytes        int             `json:"bytes,omitempty"` // as a value in the bucket: of the body; 0 in what older versions kept

	Body []byte `json:"-"`
	// sum is the SHA-256 of a large body, as its call told; "": nobody has looked.
	sum string
	// passing: the provider's answer may be another in a minute. It answers
	// those who had asked when it came, and nobody later.
	passing bool
	// under is the last body that could be kept, which one that passes by must
	// not hide.
	under *Entry
	// refused: a call with its validators has failed, so the next go without.
	refused bool
	// light: the body was left in the cache.
	light bool
}

// appendHead writes what the bucket keeps before the body, as JSON. (Through
// encoding/json, with its reflection, it was a fiftieth of a call's CPU and
// eight allocations.)
func (e *Entry) appendHead(b []byte, plain bool) []byte {
	moment := func(name string, t time.Time) {
		if !t.IsZero() {
			b = append(append(append(b, `,"`...), name...), `":"`...)
			b = append(t.AppendFormat(b, time.RFC3339Nano), '"')
		}
	}
	text := func(name, value string) {
		if value == "" {
			return
		}
		b = append(append(append(b, `,"`...), name...), `":`...)
		if scan.IsPlain([]byte(value)) {
			b = append(append(append(b, '"'), value...), '"')
			return
		}
		quoted, _ := json.Marshal(value) // a string always marshals
		b = append(b, quoted...)
	}
	truth := func(name string, is bool) {
		if is {
			b = append(append(append(b, `,"`...), name...), `":true`...)
		}
	}
	b = strconv.AppendInt(append(b, `{"http_status":`...), int64(e.HTTPStatus), 10)
	moment("fetched_at", e.FetchedAt)
	moment("came_at", e.CameAt)
	text("content_type", e.ContentType)
	text("etag", e.ETag)
	text("last_modified", e.LastModified)
	if len(e.Next) > 0 {
		b = append(append(b, `,"next":`...), e.Next...)
	}
	truth("next_loop", e.NextLoop)
	truth("redacted", e.Redacted)
	if e.LatencyMS != 0 {
		b = strconv.AppendInt(append(b, `,"latency_ms":`...), e.LatencyMS, 10)
	}
	truth("plain", plain)
	if len(e.Body) > 0 {
		b = strconv.AppendInt(append(b, `,"bytes":`...), int64(len(e.Body)), 10)
	}
	return append(b, '}')
}

// inherits reports whether the same validators have failed before.
func (e *Entry) inherits(before *Entry) bool {
	return before != nil && before.refused && before.ETag == e.ETag && before.LastModified == e.LastModified
}

// Lasting is the body that may be shown later, nil if there is none.
func (e *Entry) Lasting() *Entry {
	if e != nil && e.passing {
		return e.under
	}
	return e
}

// Of is the entry of a call's result.
func Of(result *providers.Result) *Entry {
	return &Entry{
		FetchedAt: result.FetchedAt, CameAt: result.FetchedAt.Add(result.Age), HTTPStatus: result.HTTPStatus, ContentType: result.ContentType,
		ETag: result.ETag, LastModified: result.LastModified, Next: result.Next, NextLoop: result.NextLoop, Redacted: result.Redacted,
		LatencyMS: result.Latency.Milliseconds(), Body: result.Body, sum: result.SHA256, passing: !result.Cacheable,
	}
}

// size is about what an entry takes in memory, in bytes.
func (e *Entry) size(key string) int {
	const overhead = 512
	if e.under != nil {
		return overhead + len(e.Body) + e.under.size(key)
	}
	return overhead + 2*len(key) + len(e.Body) + len(e.ContentType) + len(e.ETag) + len(e.LastModified) + len(e.Next)
}

// large reports whether the body, or the one that it hides, has its memory out
// of the budget.
func (e *Entry) large() bool {
	return len(e.Body) > memory.Small || e.under != nil && e.under.large()
}

// Light is the entry for one who waits with it: a large body is left in the
// cache, which gives it up when somebody needs its memory. Whoever waited for
// memory, or for one who does, would otherwise wait for itself. Whole brings
// the body back, if it is still there.
func (e *Entry) Light() *Entry {
	if e == nil || !e.large() {
		return e
	}
	light := *e
	light.Body, light.sum, light.under, light.light = nil, "", nil, true
	return &light
}

// same reports whether two entries are of the same body.
func (e *Entry) same(other *Entry) bool {
	return e.FetchedAt.Equal(other.FetchedAt) && e.ETag == other.ETag && e.LastModified == other.LastModified
}

// Revive makes a whole answer of a 304: the body that was kept is still right.
func (e *Entry) Revive(result *providers.Result) {
	result.HTTPStatus, result.ContentType, result.Body, result.SHA256 = e.HTTPStatus, e.ContentType, e.Body, e.sum
	result.Next, result.NextLoop, result.Redacted, result.Cacheable = e.Next, e.NextLoop, e.Redacted, true
	if result.ETag == "" {
		result.ETag = e.ETag
	}
	if result.LastModified == "" {
		result.LastModified = e.LastModified
	}
}

// came is when the body came, however old it was by then.
func (e *Entry) came() time.Time {
	if e.CameAt.IsZero() {
		return e.FetchedAt
	}
	return e.CameAt
}

// Fresh reports whether the body answers a request stored then: it came after
// the request did, or it is young enough.
func (e *Entry) Fresh(stored, now time.Time, maxAge time.Duration) bool {
	if e == nil {
		return false
	}
	if !e.came().Before(stored) {
		return true
	}
	return !e.passing && now.Sub(e.FetchedAt) <= maxAge
}

// Within reports whether the body is at most this old; a limit of 0 or less
// covers nothing.
func (e *Entry) Within(limit time.Duration, now time.Time) bool {
	return e != nil && !e.passing && limit > 0 && now.Sub(e.FetchedAt) <= limit
}

// SHA256 is that of a large body, lower-case hex; "": nobody has looked.
func (e *Entry) SHA256() string { return e.sum }

// Refused reports whether a call with the body's validators has failed, so that
// the next goes without.
func (e *Entry) Refused() bool { return e.refused }
