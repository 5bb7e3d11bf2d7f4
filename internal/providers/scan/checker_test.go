package scan

import (
	"encoding/json"
	"strings"
	"testing"
)

// checked is a checker's word of a text that comes in two pieces.
func checked(doc string, cut int) bool {
	var c Checker
	_, _ = c.Write([]byte(doc[:cut]))
	_, _ = c.Write([]byte(doc[cut:]))
	return c.Valid()
}

// Whatever the pieces are, the checker says what encoding/json says.
func TestTheCheckerSaysWhatJSONSays(t *testing.T) {
	for _, doc := range []string{
		``, ` `, `1`, ` 1 `, `-`, `-0`, `-0.`, `0.5`, `00`, `01`, `1.`, `1.e1`, `1e`, `1e+`, `1e+5`, `1E-05`, `+1`, `.5`, `1 2`, `-a`, `0e1`, `0x1`,
		`"`, `""`, `"a`, `"a\"`, `"\u00e9"`, `"\u00g9"`, `"\u00E`, `"\x"`, "\"\x00\"", "\"\n\"", "\"\x7f\"", "\"\xff\xfe\"", `"a"b`, `'a'`,
		`true`, `tru`, `truee`, `false`, `null`, `nul`, `nulL`, `True`, `NaN`,
		`[]`, `[ ]`, `[1]`, `[1,]`, `[,1]`, `[1 2]`, `[1,2`, `[[[]]]`, `[}`, `[1}`, `]`, `[]]`, `[true,false,null,-1.5e3,"x"]`, `[1e5]`, `[0]`, `[-]`,
		`{}`, `{ }`, `{"a":1}`, `{"a" : 1 , "b":2}`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1]`, `{"a":1}}`, `{"a":{"b":[{}]}}`, `{1:2}`, `{"a":1 "b":2}`, `{"a",1}`,
		"\ufeff{}", "\t\r\n{}\v", `{"a":"\\"}`, `{"\"":"\/"}`, `[1,2,3]x`, `{"a":1}//`, `1,2`, `:`, `,`,
		strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001),
		strings.Repeat(`{"":`, 10_000) + "1" + strings.Repeat("}", 10_000), strings.Repeat(`[`, 5_000) + strings.Repeat(`{"":`, 5_001) + "1" + strings.Repeat("}", 5_001) + strings.Repeat("]", 5_000),
	} {
		want := json.Valid([]byte(doc))
		for cut := 0; cut <= len(doc); cut += 1 + len(doc)/100 {
			if got := checked(doc, cut); got != want {
				t.Errorf("%.60q cut at %d: %v, and encoding/json says %v", doc, cut, got, want)
			}
		}
	}
}

func FuzzChecker(f *testing.F) {
	for _, doc := range []string{`{"a":[1,-0.5e+3,"x\u00e9\n",true,false,null,{}]}`, `[1,]`, `"\ud83d\ude00"`, ` [ ] `, `1e5`, `{"a":1}]`, "\"\x00\""} {
		f.Add([]byte(doc), uint16(3))
	}
	f.Fuzz(func(t *testing.T, doc []byte, cut uint16) {
		want := json.Valid(doc)
		if got := checked(string(doc), int(cut)%(len(doc)+1)); got != want {
			t.Errorf("%q cut at %d: %v, and encoding/json says %v", doc, cut, got, want)
		}
		var c Checker
		for i := range doc {
			_, _ = c.Write(doc[i : i+1])
		}
		if c.Valid() != want || c.at == broken && want {
			t.Errorf("%q byte by byte: %v, and encoding/json says %v", doc, c.Valid(), want)
		}
	})
}

func BenchmarkChecker(b *testing.B) {
	doc := []byte("[" + strings.Repeat(`{"symbol":"S1","price":12.25,"volume":1234567},`, 1<<16) + "1]")
	b.Run("checker", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			var c Checker
			if _, _ = c.Write(doc); !c.Valid() {
				b.Fatal("not valid")
			}
		}
	})
	b.Run("json", func(b *testing.B) {
		b.SetBytes(int64(len(doc)))
		for b.Loop() {
			if !json.Valid(doc) {
				b.Fatal("not valid")
			}
		}
	})
}
