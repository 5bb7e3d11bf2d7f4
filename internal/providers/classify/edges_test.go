package classify

import (
	"net/http"
	"strings"
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

// A rule for a text looks at the start of a body and no further: what a long one
// holds somewhere says nothing, and to look at all of it would cost a processor.
func TestHowFarATextIsLookedFor(t *testing.T) {
	busy := []sheet.Rule{{At: []string{""}, Contains: []string{"come back later"}, Class: wire.ClassThrottled}}
	for before, want := range map[int]wire.Class{0: wire.ClassThrottled, 4000: wire.ClassThrottled, 4090: wire.ClassOK, 1 << 20: wire.ClassOK} {
		body := strings.Repeat("x", before) + "come back later"
		if v := Answer(&sheet.Spec{ErrorRules: busy}, Input{Format: sheet.FormatText, Status: 200, Body: []byte(body)}); v.Class != want {
			t.Errorf("behind %d bytes: %s, want %s", before, v.Class, want)
		}
	}
	// A detail is made of as much of a member as fits.
	long := `{"error":"` + strings.Repeat("x", 1<<20) + `"}`
	if v := Answer(&sheet.Spec{ErrorText: []string{"/error"}}, Input{Status: 500, Body: []byte(long)}); len(v.Detail) > 65<<10 || len(v.Detail) < 60<<10 {
		t.Errorf("a detail of %d bytes", len(v.Detail))
	}
}
