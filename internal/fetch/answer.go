package fetch

import (
	"time"

	"fetchworker"
	"fetchworker/internal/cache"
	"fetchworker/internal/dlq"
	"fetchworker/internal/providers"
)

func okAnswer(l dlq.Letter, result *providers.Result) *fetchworker.Answer {
	a := l.Answer(fetchworker.StatusOK)
	a.Final = true
	a.Source = fetchworker.SourceOrigin
	a.FetchedAt, a.Age, a.Latency = result.FetchedAt, result.Age, result.Latency
	a.ContentType, a.Body, a.SHA256 = result.ContentType, result.Body, result.SHA256
	a.Redacted, a.Next, a.NextLoop = result.Redacted, result.Next, result.NextLoop
	return &a
}

// cachedAnswer is an ok answer from a body that is young enough.
func cachedAnswer(l dlq.Letter, e *cache.Entry, now time.Time) *fetchworker.Answer {
	a := l.Answer(fetchworker.StatusOK)
	a.Final = true
	fill(&a, e, now)
	return &a
}

// staleAnswer is a body older than was asked for, told as such.
func staleAnswer(l dlq.Letter, e *cache.Entry, now time.Time, final bool) *fetchworker.Answer {
	a := l.Answer(fetchworker.StatusStale)
	a.Final = final
	fill(&a, e, now)
	return &a
}

// meanwhile is a stale body shown while the request waits, with why it waits
// and until when, if that is known.
func meanwhile(l dlq.Letter, e *cache.Entry, now time.Time, reason fetchworker.Reason, until time.Time) *fetchworker.Answer {
	a := staleAnswer(l, e, now, false)
	a.Reason, a.RetryAt = reason, until
	return a
}

func fill(a *fetchworker.Answer, e *cache.Entry, now time.Time) {
	a.Source = fetchworker.SourceCache
	a.HTTPStatus = e.HTTPStatus
	a.FetchedAt, a.Age = e.FetchedAt, now.Sub(e.FetchedAt)
	a.Latency = time.Duration(e.LatencyMS) * time.Millisecond
	a.ContentType, a.Body, a.SHA256 = e.ContentType, e.Body, e.SHA256()
	a.Next, a.NextLoop, a.Redacted = e.Next, e.NextLoop, e.Redacted
}

func failedAnswer(l dlq.Letter, code fetchworker.Code, detail string) *fetchworker.Answer {
	a := l.Failed(code, detail)
	return &a
}

func waitingAnswer(l dlq.Letter, reason fetchworker.Reason, detail string, retryAt time.Time) *fetchworker.Answer {
	a := l.Waiting(reason, detail, retryAt)
	return &a
}
