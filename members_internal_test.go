package fetchworker

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

// FuzzMembers: what members finds is what encoding/json finds.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{
		``, `{`, `{}`, ` {} `, `[]`, `{"a":1}`, `{"a" : 1 , "b":[1,{"c":"}"}], "d":{"e":"\"]"}}`, `{"a":null,"a":true}`,
		`{"\u0061":"x","é":"\ud83d\ude00"}`, "{\"\xff\":1}", `{"a":-1.5e3}x`, `{"a":"\\"}`, `{"a":"\\\"","b":false}`,
		"{\n\t\"id\" :\r\n\"q-1\"\n}", `{"":""}`, `{"a":[]}`, `{"a":{} }`, `{"a":1 }`, "\u00a0{}", "\x0b{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		type member struct{ name, value string }
		var got, want []member
		ok := members(body, func(name []byte, value json.RawMessage) { got = append(got, member{string(name), string(value)}) })
		dec := json.NewDecoder(bytes.NewReader(body))
		isObject := json.Valid(body) && bytes.Trim(body, " \t\r\n")[0] == '{'
		if ok != isObject {
			t.Fatalf("%q is an object: %t, want %t", body, ok, isObject)
		}
		if !ok {
			return
		}
		_, _ = dec.Token()
		for dec.More() {
			token, err := dec.Token()
			if err != nil {
				t.Fatal(err)
			}
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				t.Fatal(err)
			}
			name, _ := token.(string)
			want = append(want, member{name, string(value)})
			text, isText := jsonText(value)
			var decoded string
			if is := value[0] == '"' && json.Unmarshal(value, &decoded) == nil; is != isText || text != decoded {
				t.Fatalf("%s is the text %q, %t; want %q, %t", value, text, isText, decoded, is)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", body, got, want)
		}
	})
}

// FuzzCanonicalFlat: the short way to the canonical form leads where the long
// one does.
func FuzzCanonicalFlat(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"symbol":"AAPL"}`, `{"b":1,"a":"x","c":true,"d":null,"e":-1.50e3}`, `{"a":1,"a":2}`, `{"a":null,"a":2}`, `{"a":2,"a":null}`,
		`{"b":"1","a":{"z":1}}`, `{"a":[1,null]}`, `{"a":"<&>"}`, `{"a":"é"}`, `{"a":"\"}`, `{"":"" , "A":"B"}`, `[]`, `null`, ``, `{"a":1}x`,
		`{"z":1,"y":2,"x":3,"w":4,"v":5,"u":6,"t":7,"s":8,"r":9,"q":10,"p":11,"o":12,"n":13,"m":14,"l":15,"k":16,"j":17}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, params []byte) {
		if short, ok := canonicalFlat(nil, params); ok {
			if long := canonicalAny(params); !bytes.Equal(short, long) {
				t.Fatalf("%q: %q, want %q", params, short, long)
			}
		}
	})
}
