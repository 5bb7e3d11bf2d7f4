package redact

import (
	"fmt"
	"strings"
	"testing"
)

// Of more keys than are remembered the newest are, whatever their length.
func TestTheNewestKeysAreRemembered(t *testing.T) {
	for name, lengths := range map[string]func(n int) int{
		"of one length": func(int) int { return 0 }, "ever shorter": func(n int) int { return 60 - n }, "ever longer": func(n int) int { return n },
	} {
		r := New()
		var key string
		for n := range 60 {
			key = fmt.Sprintf("key-%02d-", n) + strings.Repeat("k", 4+lengths(n))
			r.Add(key)
			if text := r.Text("it is " + key); strings.Contains(text, key) {
				t.Fatalf("%s: the key that is sent, the %d., is told: %s", name, n, text)
			}
			if body, found := r.Body([]byte("it is " + key)); !found || strings.Contains(string(body), key) {
				t.Fatalf("%s: the key that is sent, the %d., is in a body: %s", name, n, body)
			}
		}
	}
}
