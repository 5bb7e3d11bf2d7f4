package gateway

import (
	"context"
	"encoding/json"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/gateway/openapi"
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

// A generated client sends a token where one is needed, and none where not.
func TestTheDescriptionTellsOfTokens(t *testing.T) {
	for _, needed := range []bool{false, true} {
		text, err := openapi.Document([]fetchworker.Catalogue{{Provider: "fmp", Operations: []fetchworker.CatalogueOperation{{Name: "quote"}}}}, "v", needed)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Security   []map[string][]string `json:"security"`
			Components struct {
				Schemes map[string]map[string]string `json:"securitySchemes"`
			} `json:"components"`
		}
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		bearer := false
		for _, s := range d.Security {
			_, bearer = s["bearer"]
		}
		if bearer != needed || (d.Components.Schemes["bearer"]["scheme"] == "bearer") != needed {
			t.Errorf("tokens needed %t: %+v", needed, d)
		}
	}
}
