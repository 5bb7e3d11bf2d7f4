package scan

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// FuzzLookup: what a pointer leads to is what encoding/json finds there.
func FuzzLookup(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"a":{"b":[1,"x",{"c":null}]}}`, "/a/b/2/c"},
		{`[1,2,3]`, "/1"},
		{`[1]`, "/01"},
		{`[1]`, "/-"},
		{`[1}`, "/7"},
		{`{"a~/b":1}`, "/a~0~1b"},
		{`{"\u0061":"\ud83d\ude00"}`, "/a"},
		{`{"a":1,"a":2}`, "/a"},
		{`"x"`, ""},
		{`{"":1}`, "/"},
		{` { "a" : [ ] } `, "/a"},
	} {
		f.Add([]byte(seed[0]), seed[1])
	}
	f.Fuzz(func(t *testing.T, doc []byte, pointer string) {
		// What is no JSON finds anything, and ends nobody.
		_, _ = Lookup(doc, pointer)
		_, _ = Lookup(doc, "/a/0/b")
		_ = Items(doc)
		Members(doc, func(string, []byte) {})
		if !json.Valid(doc) || pointer != "" && pointer[0] != '/' || strings.Contains(string(doc), "\ufffd") || !json.Valid([]byte(`"`+strings.NewReplacer(`"`, "", `\`, "").Replace(pointer)+`"`)) {
			return
		}
		value, ok := Lookup(doc, pointer)
		if !ok {
			return
		}
		if !json.Valid(value) {
			t.Fatalf("%s at %q is %q", doc, pointer, value)
		}
		var whole, part any
		if json.Unmarshal(doc, &whole) != nil || json.Unmarshal(value, &part) != nil {
			return
		}
		if pointer == "" && !reflect.DeepEqual(whole, part) {
			t.Fatalf("%s is %s", doc, value)
		}
		text := Text(value)
		if s, is := part.(string); is && text != s {
			t.Fatalf("%s is the text %q, not %q", value, text, s)
		}
		if n := Items(doc); n < -1 {
			t.Fatalf("%d items", n)
		}
		n := 0
		Members(doc, func(string, []byte) { n++ })
		if object, is := whole.(map[string]any); is && n < len(object) {
			t.Fatalf("%s has %d members, not %d", doc, n, len(object))
		}
	})
}
