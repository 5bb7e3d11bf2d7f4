package redact

import (
	"strings"
	"testing"
)

func TestMixedEscapesHideNoKey(t *testing.T) {
	for _, c := range []struct{ key, text string }{
		{"ab12canaryK3Y456789", `{"u":"x%25ab12canary%4b3Y456789"}`},
		{"ab12canaryK3Y456789", `{"u":"x%25ab12canaryK3Y456789"}`},
		{"ab%2dcanaryK3Y4567", `{"u":"ab%252dcanaryK3Y4567"}`},
		{"ab%2dcanaryK3Y4567", `{"u":"\u0061b%2dcanaryK3Y4567"}`},
		{"ab%2dcanaryK3Y4567", `{"u":"ab%25%32%64canaryK3Y4567"}`},
	} {
		clean, found := New(c.key).Body([]byte(c.text))
		if !found || strings.Contains(string(clean), "canary") {
			t.Errorf("key %q comes through: %s", c.key, clean)
		}
	}
}
