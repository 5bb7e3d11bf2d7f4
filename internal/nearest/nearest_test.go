package nearest_test

import (
	"testing"

	"fetchworker/internal/nearest"
)

func TestWhatWasMeant(t *testing.T) {
	providers := []string{"fmp", "fred", "newsapi", "polygon"}
	operations := []string{"batch_quote", "profile", "quote", "ratios", "search"}
	for _, c := range []struct {
		written string
		words   []string
		want    string
	}{
		{"fpm", providers, "fmp"},
		{"FMP", providers, "fmp"},
		{"polygn", providers, "polygon"},
		{"news-api", providers, "newsapi"},
		{"quotes", operations, "quote"},
		{"qoute", operations, "quote"},
		{"batchquote", operations, "batch_quote"},
		{"weather", providers, ""},
		{"", providers, ""},
		{"x", nil, ""},
	} {
		if got := nearest.Of(c.written, c.words); got != c.want {
			t.Errorf("%q: %q, want %q", c.written, got, c.want)
		}
	}
	if got := nearest.Sorted("quotes", operations); got[0] != "quote" || len(got) != len(operations) {
		t.Errorf("%v", got)
	}
}
