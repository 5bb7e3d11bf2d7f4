package operate_test

import (
	"strings"
	"testing"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
)

// An edited request is one that the wire accepts, under the id that it had.
func TestAnEditIsARequestThatTheWireAccepts(t *testing.T) {
	f := browse.Found{Letter: letter("q-1")}
	long := func(n int) string {
		body := `{"params":{"symbol":"AAPL","x":""}}`
		return strings.Replace(body, `""`, `"`+strings.Repeat("x", n-len(body))+`"`, 1)
	}
	for body, good := range map[string]bool{
		`{"params":{"symbol":"MSFT"}}`:                                true,
		` {"id":"q-1","params":{"symbol":"MSFT"}} `:                   true,
		`{"id":"q-2","params":{"symbol":"MSFT"}}`:                     false,
		` {"id":"q-1","params":{"symbol":"AAPL"}} ` + "\n":            false, // nothing was changed
		`{"params":{"symbol":"MSFT"}`:                                 false,
		`{"params":{"symbol":"MSFT"},"colour":1}`:                     false,
		`{"params":{"symbol":"MSFT"},"reply_to":"fetch.reply.bob.x"}`: false,
		long(fetchworker.MaxRequestBytes):                             true,
		long(fetchworker.MaxRequestBytes + 1):                         false,
		`{"params":{"symbol":"MSFT"},"ttl":"-1s"}`:                    false,
		"": false,
	} {
		edited, err := operate.Edited(f, []byte(body))
		if (err == nil) != good || good && string(edited) != strings.TrimSpace(body) {
			t.Errorf("%.80s: %v", body, err)
		}
	}
}
