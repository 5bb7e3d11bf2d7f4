package page

import "testing"

// A pause is told with its providers, few by name, and leads to where it ends.
func TestAPauseIsToldWithItsProviders(t *testing.T) {
	for _, c := range []struct {
		names        []string
		says, resume string
	}{
		{[]string{"fmp"}, "fmp is paused", "/control?do=resume&provider=fmp"},
		{[]string{"fmp", "fred"}, "fmp and fred are paused", "/control?do=resume&provider=fmp&provider=fred"},
		{[]string{"a", "b", "c", "d"}, "a, b, c and d are paused", "/control?do=resume&provider=a&provider=b&provider=c&provider=d"},
		{[]string{"a", "b", "c", "d", "e"}, "5 providers are paused", "/control?do=resume&provider=a&provider=b&provider=c&provider=d&provider=e"},
	} {
		p := pause{Providers: c.names}
		if p.Words() != c.says || p.Resume() != c.resume {
			t.Errorf("%v: %s, %s", c.names, p.Words(), p.Resume())
		}
	}
}
