package redact

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestMixedEscapesHideNoKey(t *testing.T) {
	for _, c := range []struct{ key, text string }{
		{"ab12canaryK3Y456789", `{"u":"x%25ab12canary%4b3Y456789"}`},
		{"ab12canaryK3Y456789", `{"u":"x%25ab12canaryK3Y456789"}`},
		{"ab%2dcanaryK3Y4567", `{"u":"ab%252dcanaryK3Y4567"}`},
		{"ab%2dcanaryK3Y4567", `{"u":"\u0061b%2dcanaryK3Y4567"}`},
		{"ab%2dcanaryK3Y4567", `{"u":"ab%25%32%64canaryK3Y4567"}`},
		{"a key canary K3Y4567", `{"u":"a+key+canary%20K3Y4567"}`},
		{"a<key&canary K3Y4567", `{"u":"a&lt;key&amp;canary+K3Y4567"}`},
		{"a\"key/canaryK3Y4567", `{"u":"a\\\"key\/canaryK3Y4567"}`},
	} {
		clean, found := New(c.key).Body([]byte(c.text))
		if !found || strings.Contains(string(clean), "canary") {
			t.Errorf("key %q comes through: %s", c.key, clean)
		}
	}
}

// A body without the key costs little a byte, whatever it is made of: 64 MiB of
// escapes are looked through in a second or two, and nothing of them is copied.
func TestBodiesOfEscapesAreLookedThroughOnce(t *testing.T) {
	const size = 4 << 20
	r := New("ab12canaryK3Y456789", "another/secret&more")
	for _, part := range []string{"%", `\`, `\u00`, `\u0061`, "%61", "%2561", "%2525", "a", "ab12canaryK3Y45678", `\\\\\\\\u0061`, "plain text, 100% of it. "} {
		body := []byte(strings.Repeat(part, size/len(part)))
		body = append(body, "%"...) // so that the quick way out is none
		start := time.Now()
		if _, found := r.Body(body); found {
			t.Errorf("%q holds no key", part)
		}
		if each := time.Since(start) / time.Duration(len(body)/1000); each > 50*time.Microsecond*slow {
			t.Errorf("%q costs %v a thousand bytes", part, each)
		}
		if allocs := testing.AllocsPerRun(1, func() { r.Body(body[:1<<16]) }); allocs > 20 {
			t.Errorf("%q: %v allocations", part, allocs)
		}
	}
}

// slow is how much slower a busy machine may be; the benchmark has the figure.
const slow = 20

func BenchmarkBody(b *testing.B) {
	r := New("ab12canaryK3Y456789")
	for name, part := range map[string]string{"plain": "plain text of some length. ", "percent": "100% ", "backslashes": `\`, "unicode": `\u0061`, "almost": "%61b12canaryK3Y45678"} {
		b.Run(name, func(b *testing.B) {
			body := []byte(strings.Repeat(part, (4<<20)/len(part)) + "%")
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				r.Body(body)
			}
		})
	}
}

// Several secrets are taken out, the longer before what it contains, and what
// was exchanged stays known.
func TestSeveralSecrets(t *testing.T) {
	r := New("secret-one")
	r.Add("secret-one-and-more")
	r.Add("second+key=")
	r.Add("abc") // too short to be one
	got := r.Text("a=secret-one-and-more b=secret-one c=second%2Bkey%3D d=abc")
	if got != "a=REDACTED b=REDACTED c=REDACTED d=abc" {
		t.Error(got)
	}
	if shown := fmt.Sprintf("%v %+v %#v", r, r, New("secret-one")); strings.Contains(shown, "secret-one") {
		t.Error(shown)
	}
}

// A key is taken out of a text in each of its forms, whatever else the text has
// or has not.
func TestEveryFormInAText(t *testing.T) {
	for key, forms := range map[string][]string{
		"a key canary":  {"a key canary", "a+key+canary", "a%20key%20canary", "a+key%20canary", "a%2Bkey+canary", `a\u0020key canary`},
		"a<canary&k3y":  {"a<canary&k3y", "a&lt;canary&amp;k3y", "a%3Ccanary%26k3y", `a\u003ccanary\u0026k3y`},
		"a/canary\"k3y": {`a/canary"k3y`, `a\/canary\"k3y`, "a%2fcanary%22k3y", "a/canary&#34;k3y"},
	} {
		r := New(key)
		var percent, unicode strings.Builder // as whoever escapes all there is writes it
		for _, c := range []byte(key) {
			_, _ = fmt.Fprintf(&percent, "%%%02X", c)
			_, _ = fmt.Fprintf(&unicode, `\u%04x`, c)
		}
		for _, form := range append(forms, percent.String(), strings.ToLower(percent.String()), strings.ReplaceAll(percent.String(), "%", "%25"), unicode.String()) {
			if got := r.Text("it is " + form + " indeed"); got != "it is REDACTED indeed" {
				t.Errorf("%q as %q: %s", key, form, got)
			}
			if got, found := r.Body([]byte("it is " + form + " indeed")); !found || string(got) != "it is REDACTED indeed" {
				t.Errorf("%q as %q in a body: %s", key, form, got)
			}
		}
	}
}

// However a key and a body are made, one place of it costs a bounded number of
// tries: a text in which every part could be several would cost ages.
func TestTriesAreBounded(t *testing.T) {
	k := newKey(strings.Repeat(`\`, 24) + "x")
	tries := maxTries
	if _, ok := match([]byte(strings.Repeat(`\`, 4<<10)), k.chars, &tries); ok {
		t.Error("it is not there")
	}
	if tries < -2*len(k.chars) {
		t.Errorf("%d tries", maxTries-tries)
	}
	if r := New(strings.Repeat(`\`, 24) + "x"); r.Text("it is "+strings.Repeat(`\`, 24)+"x") != "it is REDACTED" {
		t.Error("the key itself is not found")
	}
}

// A body is written over where it can be, and comes out as if it were not:
// keys shorter and longer than what takes their place, in any order.
func TestBodiesAreWrittenOver(t *testing.T) {
	short, long := "k3y-06", "a-key-that-is-longer"
	r := New(short, long)
	for n := range 1 << 8 {
		var body strings.Builder
		for bit := range 8 {
			body.WriteString(strings.Repeat("x", bit))
			switch {
			case n>>bit&1 == 0:
			case (n^bit)%3 == 0:
				body.WriteString(short)
			default:
				body.WriteString(long)
			}
		}
		want := strings.NewReplacer(short, redacted, long, redacted).Replace(body.String())
		if got, found := r.Body([]byte(body.String())); string(got) != want || found != (n > 0) {
			t.Fatalf("%s became %s", body.String(), got)
		}
	}
	whole := []byte(strings.Repeat(long, 1000))
	if clean, _ := r.Body(whole); &clean[0] != &whole[0] {
		t.Error("a body was copied")
	}
}

// A large body is searched in pieces, and a key on a cut is found like any
// other, raw and escaped.
func TestAKeyIsFoundAcrossPieces(t *testing.T) {
	const piece = 256 << 10
	key := "secret-key-0123456789"
	r := New(key)
	for _, form := range []string{key, `\u0073ecret-key-0123456789`, "%73ecret-key-0123456789"} {
		for _, at := range []int{piece - len(form), piece - len(form) + 1, piece - len(form)/2, piece - 1, piece, piece + len(form)} {
			before := strings.Repeat("x", at)
			clean, found := r.Body([]byte(before + form + strings.Repeat("y", piece)))
			if want := before + redacted + strings.Repeat("y", piece); !found || string(clean) != want {
				t.Fatalf("%s at %d: found %v", form, at, found)
			}
		}
	}
}
