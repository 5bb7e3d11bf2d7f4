package classify

import (
	"net/http"
	"testing"

	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// What a rule calls an answer is kept unless it is not done yet; who asks to come
// back is believed, whatever else is wrong with it.
func TestWhatIsKeptAndWhoIsBelieved(t *testing.T) {
	fine := []sheet.Rule{{Status: []int{2}, Class: wire.ClassOK}}
	for name, c := range map[string]struct {
		rules   []sheet.Rule
		status  int
		header  http.Header
		class   wire.Class
		noCache bool
	}{
		"done":                     {nil, 200, nil, wire.ClassOK, false},
		"not done":                 {nil, 202, nil, wire.ClassTransient, false},
		"not done, and an answer":  {fine, 202, nil, wire.ClassOK, true},
		"made, and an answer":      {fine, 201, nil, wire.ClassOK, false},
		"busy":                     {nil, 503, nil, wire.ClassTransient, false},
		"busy, come back":          {nil, 503, http.Header{"Retry-After": {"5"}}, wire.ClassThrottled, false},
		"broken, come back":        {nil, 500, http.Header{"Retry-After": {"5"}}, wire.ClassTransient, false},
		"too many":                 {nil, 429, nil, wire.ClassThrottled, false},
		"busy, and says nonsense":  {nil, 503, http.Header{"Retry-After": {"soon"}}, wire.ClassTransient, false},
		"busy, and a date of past": {nil, 503, http.Header{"Retry-After": {"Sun, 01 Mar 2015 12:00:00 GMT"}}, wire.ClassThrottled, false},
	} {
		v := Answer(&sheet.Spec{ErrorRules: c.rules}, Input{Format: sheet.FormatJSON, Status: c.status, Header: c.header, Body: []byte(`{"a":1}`)})
		if v.Class != c.class || v.NoCache != c.noCache {
			t.Errorf("%s: %s, not kept %t", name, v.Class, v.NoCache)
		}
	}
}
