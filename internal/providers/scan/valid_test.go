package scan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var documents = []string{
	``, ` `, `{}`, `[]`, `{`, `}`, `[`, `]`, `[}`, `{]`, `{}}`, `[]]`, `{} {}`, `[1,]`, `[,1]`, `[1 2]`, `[1,2]`, " [ 1 ,\t2\r\n] ",
	`{"a":1}`, `{"a":1,}`, `{,"a":1}`, `{"a" : [ {"b":{}} , [] ] }`, `{"a"}`, `{"a":}`, `{"a":1 "b":2}`, `{"a":1,"b":2}`, `{1:2}`, `{"a":1,2}`, `["a":1]`,
	`true`, `false`, `null`, `tru`, `truee`, `nul`, `True`, `[true,false,null]`, `t`, `n`,
	`0`, `-0`, `-`, `01`, `-01`, `1.`, `.1`, `1.0`, `1e`, `1e5`, `1E+5`, `1e-05`, `1e+`, `1.e1`, `+1`, `0x1`, `1a`, `NaN`, `12345678901234567890.123`, `--1`,
	`"`, `""`, `"a`, `"\"`, `"\""`, `"\u00e9"`, `"\u00g9"`, `"\u00e"`, `"\u"`, `"\x"`, `"\`, "\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"\xff\xfe\"", "\"\n\"", `"é€𝕏"`,
	`"0123456"`, `"01234567"`, `"012345678901234"`, `"0123456789012345"`, "\"0123456\x01\"", "\"01234567\x01\"", `"0123456\"8901234\\"`, `"01234567` + "\xe2\x82\xac" + `"`,
	"\ufeff{}", `'a'`, `{'a':1}`, `[1]x`, `x[1]`, `"a""b"`, "\x00",
}

// What is JSON is so in both ways, and so it is with each of its beginnings and
// with one byte of it changed.
func TestValidIsAsTheLibrarySays(t *testing.T) {
	same := func(doc []byte) {
		if got, want := Valid(doc), json.Valid(doc); got != want {
			t.Errorf("%q: %v, not %v", doc, got, want)
		}
	}
	for _, text := range documents {
		doc := []byte(text)
		same(doc)
		for i := range doc {
			same(doc[:i])
			for _, c := range []byte("{}[]\",:\\ 0-.eut\x00\x1f\x80\xff") {
				other := bytes.Clone(doc)
				other[i] = c
				same(other)
			}
		}
	}
	for _, depth := range []int{1, 62, 63, 64, 65, 66, 130, 9_999, 10_000, 10_001} {
		for _, around := range [][3]string{{"[", "", "]"}, {`{"a":`, "1", "}"}, {`[{"a":`, "[]", "}]"}} {
			doc := strings.Repeat(around[0], depth) + around[1] + strings.Repeat(around[2], depth)
			same([]byte(doc))
			same([]byte(doc[:len(doc)-1]))
			same([]byte(doc + "]"))
			same([]byte(strings.Replace(doc, "]]", "]}", 1)))
		}
	}
}

func FuzzValid(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if got, want := Valid(doc), json.Valid(doc); got != want {
			t.Fatalf("%q: %v, not %v", doc, got, want)
		}
	})
}

// Texts of the signs that JSON is made of are sometimes JSON.
func TestValidOfAnyText(t *testing.T) {
	part := rapid.SampledFrom([]string{"{", "}", "[", "]", ",", ":", `"a"`, `"\n"`, "1", "-2.5e3", "true", "null", " ", "\n", `"`, `\`, "e", "0"})
	rapid.Check(t, func(t *rapid.T) {
		doc := []byte(strings.Join(rapid.SliceOfN(part, 0, 12).Draw(t, "parts"), ""))
		if got, want := Valid(doc), json.Valid(doc); got != want {
			t.Fatalf("%q: %v, not %v", doc, got, want)
		}
	})
}

func BenchmarkValid(b *testing.B) {
	doc := []byte(`{"symbol":"AAPL","price":187.25`)
	for i := 0; len(doc) < 1000; i++ {
		doc = fmt.Appendf(doc, `,"f%d":%d.%d,"t%d":"text \"%d\""`, i, i*7919%1000, i%100, i, i)
	}
	doc = append(doc, '}')
	for name, valid := range map[string]func([]byte) bool{"ours": Valid, "library": json.Valid} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			for b.Loop() {
				if !valid(doc) {
					b.Fatal("it is no JSON")
				}
			}
		})
	}
}
