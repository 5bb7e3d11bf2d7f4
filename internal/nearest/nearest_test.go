package nearest_test

import (
	"strings"
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

func TestWhatThereIsInstead(t *testing.T) {
	many := strings.Split("a1 a2 a3 a4 a5 a6 a7 a8 a9 b1 b2 b3 polygon", " ")
	for _, c := range []struct {
		words []string
		want  string
	}{
		{nil, "there are none yet"},
		{many[:2], "there are a1, a2"},
		{many[:12], "there are a1, a2, a3, a4, a5, a6, a7, a8, a9, b1, b2, b3"},
		{many, "there are polygon, a1, a2, a3, a4, a5, a6, a7, a8, a9, b1, b2 and more"},
	} {
		if got := nearest.There("polygn", c.words); got != c.want {
			t.Errorf("%v: %q, want %q", c.words, got, c.want)
		}
	}
}
