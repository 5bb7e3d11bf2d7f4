package wire

import "testing"

// A filter names the subjects that the server takes it for.
func TestWhatAFilterNames(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"fetch.dlq.fmp.>", "fetch.dlq.fmp.batch.quote.alice.q-1", true},
		{"fetch.dlq.fmp.>", "fetch.dlq.fmp", false},
		{"fetch.dlq.fmp.>", "fetch.dlq.fmp2.batch.quote.alice.q-1", false},
		{"fetch.dlq.*.batch.>", "fetch.dlq.fmp.batch.quote", true},
		{"fetch.dlq.*.batch.>", "fetch.dlq.fmp.interactive.quote", false},
		{"fetch.*.quote", "fetch.dlq.quote", true},
		{"fetch.*.quote", "fetch.dlq.quote.alice", false},
		{"fetch.*.quote.alice", "fetch.dlq.quote", false},
		{"fetch.*", "fetch.", false},
		{"fetch.*", "fetch", false},
		{"fetch", "fetch", true},
		{"fetch", "fetched", false},
		{">", "fetch", true},
		{">", "", false},
		{"*", "fetch.dlq", false},
	} {
		if got := Matches(c.filter, c.subject); got != c.want {
			t.Errorf("%s of %s: %t", c.filter, c.subject, got)
		}
	}
}
