package call

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzParseExchange: a file that is understood can be written, and is
// understood as the same.
func FuzzParseExchange(f *testing.F) {
	for _, seed := range []string{
		"# what it shows\nGET /stable/quote?symbol=AAPL\n200\nContent-Type: application/json\n\n[{\"symbol\":\"AAPL\"}]", "POST /x\n> {\"id\":7}\n201\n\n", "POST /x\n> \n200\n\n\n\n",
		"GET /\n99\n\n", "GET x\n200\n\n", "\n\n", "GET /a\n200\nLink: <b>; rel=\"next\"\nlink: c\n: d\n\nbody\n\nmore", "#\n# a\nGET /a b\n404\n# late\n\n\x00", "GET /a\n+200\n\n", "POST /x\n200\nA:b\n> c: d\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		e, err := ParseExchange("x", content)
		if err != nil {
			return
		}
		if e.Status < 100 || e.Status > 599 || e.Target[0] != '/' {
			t.Fatalf("%q: %+v", content, e)
		}
		var b bytes.Buffer
		if _, err := e.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		again, err := ParseExchange("x", b.Bytes())
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%q\nbecame\n%q: %v", content, b.Bytes(), err)
		}
	})
}
