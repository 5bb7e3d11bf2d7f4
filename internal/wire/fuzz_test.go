package wire_test

import (
	"strings"
	"testing"

	"fetchworker"
	"fetchworker/internal/wire"
)

// FuzzParseSubject: what is read of a subject is what stands there, and can be
// answered.
func FuzzParseSubject(f *testing.F) {
	for _, seed := range []string{
		"fetch.request.fmp.interactive.3.quote.alice", "fetch.dlq.fmp.batch.quote.alice.q-1", "fetch.replay.fmp.batch.quote.alice.q-1",
		"fetch.review.fmp.quote.alice.q-1", "fetch.result.fmp.quote.alice.q-1", "fetch.request.fmp.interactive.x.quote.alice", "fetch", "fetch..", "a.b.c",
		"fetch.request." + strings.Repeat("x", 600) + ".batch.1.o.a", "fetch.request." + strings.Repeat("x", 470) + ".batch.1.o.a", "fetch.result.f\u00e9p.quote.alice.q-1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		a, err := wire.ParseSubject(subject)
		if err != nil {
			return
		}
		for _, token := range []string{a.Provider, a.Operation, a.Agent, a.ID, string(a.Lane)} {
			if strings.ContainsFunc(token, func(c rune) bool { return c < ' ' || c > '~' }) || strings.Contains(token, ".") || !strings.Contains(subject, token) {
				t.Fatalf("%q: token %q", subject, token)
			}
		}
		if a.Shard >= wire.Shards || a.Shard < -1 {
			t.Fatalf("%q: shard %d", subject, a.Shard)
		}
		if a.ID == "" {
			a.ID = strings.Repeat("x", 64) // the longest that it can have
		}
		back, err := wire.ParseSubject(fetchworker.ResultSubject(a.Identity))
		if err != nil || back.Identity != a.Identity {
			t.Fatalf("%q: its answer lies under %q: %+v %v", subject, fetchworker.ResultSubject(a.Identity), back, err)
		}
	})
}
