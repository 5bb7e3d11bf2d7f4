package scan

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What lookup and items find is what encoding/json finds.
func TestLookupFindsWhatJSONHas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := jsonValue(3).Draw(t, "doc")
		indent := rapid.SampledFrom([]string{"", " ", "\t", "\r\n "}).Draw(t, "indent")
		text, err := json.MarshalIndent(doc, indent, indent)
		if err != nil {
			t.Fatal(err)
		}
		text = append([]byte(indent), text...)
		compare(t, text, "", doc)
		if list, ok := doc.([]any); ok && Items(TrimSpace(text)) != int64(len(list)) {
			t.Fatalf("%s has %d items, counted %d", text, len(list), Items(TrimSpace(text)))
		}
		if _, ok := Lookup(text, "/no such key"); ok {
			t.Fatalf("%s has no such key", text)
		}
	})
}

// A body of millions of keys, all almost the one that is looked for, costs no
// memory; decoding each took many times as long as reading the body.
func TestKeysAreComparedWhereTheyStand(t *testing.T) {
	for _, key := range []string{`\u0061`, `\u0065rrox`, `err\u006fs`, `\u0065\u0072\u0072\u006f\u0072\u0072`, `\/error`, `error\n`, "error2"} {
		doc := []byte("{" + strings.Repeat(`"`+key+`":0,`, 1000) + `"\u0065rr\u006Fr":1}`)
		if value, ok := Lookup(doc, "/error"); !ok || string(value) != "1" {
			t.Errorf("among %s: %s, found %v", key, value, ok)
		}
		if allocs := testing.AllocsPerRun(10, func() { Lookup(doc, "/error") }); allocs > 10 {
			t.Errorf("%v allocations for 1000 keys %s", allocs, key)
		}
	}
}

func TestEscapesInKeys(t *testing.T) {
	for key, name := range map[string]string{`\"\\\/\b\f\n\r\t`: "\"\\/\b\f\n\r\t", `\u00E9\ud83d\ude00`: "é😀", `\ud83dx`: "\ufffdx", `\ud83d\\ude00`: "\ufffd\\ude00", `a\u005c`: `a\`} {
		if !isName([]byte(`"`+key+`"`), name) || isName([]byte(`"`+key+`"`), name+"x") || isName([]byte(`"`+key+`x"`), name) {
			t.Errorf("%s is %q", key, name)
		}
	}
}

// However often rules ask for a member, the body is gone through once.
func TestAMemberIsLookedForOnce(t *testing.T) {
	doc := []byte(`{"a":{"b":1}}`)
	at := Finds(doc, true)
	if value, ok := at("/a/b"); !ok || string(value) != "1" {
		t.Fatalf("%s, found %v", value, ok)
	}
	copy(doc, bytes.Repeat([]byte(" "), len(doc)))
	if _, ok := at("/a/b"); !ok {
		t.Error("looked for again")
	}
	if _, ok := at("/c"); ok {
		t.Error("found in nothing")
	}
	if _, ok := Finds([]byte(`{"a":1}`), false)("/a"); ok {
		t.Error("found in what is not JSON")
	}
}

func compare(t *rapid.T, text []byte, pointer string, want any) {
	value, ok := Lookup(text, pointer)
	var got any
	if !ok || json.Unmarshal(value, &got) != nil {
		t.Fatalf("%q at %q: found %v %q", text, pointer, ok, value)
	}
	wantText, _ := json.Marshal(want) // it was marshalled before
	gotText, _ := json.Marshal(got)
	if string(wantText) != string(gotText) {
		t.Fatalf("%q at %q: %s, want %s", text, pointer, gotText, wantText)
	}
	if object, is := want.(map[string]any); is {
		for name, member := range object {
			compare(t, text, pointer+"/"+strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1"), member)
		}
	}
	if list, is := want.([]any); is {
		for i, element := range list {
			compare(t, text, pointer+"/"+strconv.Itoa(i), element)
		}
		for _, none := range []string{strconv.Itoa(len(list)), "-", "-1", "00", "x", ""} {
			if _, ok := Lookup(text, pointer+"/"+none); ok {
				t.Fatalf("%s at %q has no element %q", text, pointer, none)
			}
		}
	}
}

func jsonValue(depth int) *rapid.Generator[any] {
	text := rapid.SampledFrom([]string{"", "a", "b~/c", `q"u\o`, "]},{[:", "é\n", "https://x/y"})
	leaf := rapid.OneOf(text.AsAny(), rapid.Float64Range(-1e9, 1e9).AsAny(), rapid.Bool().AsAny(), rapid.Just[any](nil))
	if depth == 0 {
		return leaf
	}
	inner := jsonValue(depth - 1)
	return rapid.OneOf(leaf, rapid.MapOfN(text, inner, 0, 4).AsAny(), rapid.SliceOfN(inner, 0, 4).AsAny())
}
