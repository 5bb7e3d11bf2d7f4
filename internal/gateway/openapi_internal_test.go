package gateway

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// The description is made anew as often as what it is made of, and has the same
// tag while it is the same.
func TestTheDescriptionGrowsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a cachedAPI
		made, says, wrong := 0, "one", error(nil)
		get := func(want string, times int) string {
			t.Helper()
			text, tag, err := a.get(t.Context(), func(context.Context) ([]byte, error) { made++; return []byte(says), wrong })
			if string(text) != want || made != times || (err != nil) != (want == "") {
				t.Errorf("%q, %v, made %d times, want %q, %d", text, err, made, want, times)
			}
			return tag
		}
		first := get("one", 1)
		says = "two"
		time.Sleep(apiAge - 1)
		if again := get("one", 1); again != first {
			t.Error("another tag of the same")
		}
		time.Sleep(time.Nanosecond)
		if other := get("two", 2); other == first {
			t.Error("the same tag of another")
		}
		time.Sleep(apiAge)
		wrong = io.EOF
		get("", 3)
		wrong = nil
		get("two", 4)
	})
}
