package providers

import (
	"encoding/json"
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
		if list, ok := doc.([]any); ok && items(trimSpace(text)) != int64(len(list)) {
			t.Fatalf("%s has %d items, counted %d", text, len(list), items(trimSpace(text)))
		}
		if _, ok := lookup(text, "/no such key"); ok {
			t.Fatalf("%s has no such key", text)
		}
	})
}

func compare(t *rapid.T, text []byte, pointer string, want any) {
	value, ok := lookup(text, pointer)
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

// Whatever path and query an agent writes, a planned get stays below the
// provider's host, decoding it any number of times climbs nowhere, and no key
// but ours is in it.
func TestGetStaysInside(t *testing.T) {
	p, err := newProvider(fred(""), "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	part := rapid.SampledFrom([]string{"/", "a", "..", ".", "%2e", "%2F", "%252e", "%25", "%", "@", ":", "?", "#", `\`, "//", "http://", "é", " ", "\x00", "\n", "%0a", ";", "fred", "v2", "geofred"})
	rapid.Check(t, func(t *rapid.T) {
		path := strings.Join(rapid.SliceOfN(part, 0, 8).Draw(t, "path"), "")
		query := map[string]string{rapid.SampledFrom([]string{"a", "api_key", "Api_Key", "&api_key", "b=c"}).Draw(t, "name"): path}
		params, err := json.Marshal(map[string]any{"path": path, "query": query})
		if err != nil {
			t.Fatal(err)
		}
		call, err := p.Plan(opGet, params)
		if err != nil {
			return
		}
		req := p.request(t.Context(), call, Options{})
		if req.URL.Host != "api.stlouisfed.org" || req.URL.User != nil || req.URL.Fragment != "" {
			t.Fatalf("%s leads to %s", params, req.URL)
		}
		if climbs := req.URL.EscapedPath(); strings.Contains(climbs, "..") || strings.Contains(strings.ToLower(climbs), "%2") && !strings.Contains(climbs, "%20") || strings.HasPrefix(climbs, "//") {
			t.Fatalf("%s climbs: %s", params, climbs)
		}
		inQuery := call.auth.Kind == AuthQuery
		if keys := req.URL.Query()["api_key"]; len(keys) > 1 || inQuery != (len(keys) == 1 && keys[0] == "k") {
			t.Fatalf("%s sends the keys %q", params, keys)
		}
	})
}
