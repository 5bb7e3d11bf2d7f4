package cache

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// FuzzValue: whatever lies in the bucket, a value that is understood can be
// written, and is understood as the same; its body is bounded.
func FuzzValue(f *testing.F) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		f.Fatal(err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(decodedLimit))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = zip.Close(); unzip.Close() })
	c := &Cache{zip: zip, unzip: unzip}
	for _, e := range []*Entry{
		{HTTPStatus: 200, Body: []byte("[]"), ETag: `W/"1"`},
		{HTTPStatus: 200, Body: bytes.Repeat([]byte("abc "), worthZipping), ContentType: "text/plain; charset=\"x\""},
		{HTTPStatus: 200, Next: []byte(`{"cursor":"2"}`), NextLoop: true, Redacted: true, LatencyMS: -1, LastModified: "\u2028"},
	} {
		f.Add(c.encode(nil, e))
	}
	for _, seed := range []string{"", "\x00", "\x02{}", "\x03{} x", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x0e{\"plain\":true}", "\x10{\"bytes\":1000000}x", "\x04null"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		e, err := c.decode(t.Context(), bytes.Clone(value), Wanted{}, here)
		if err != nil {
			return
		}
		if len(e.Body) > decodedLimit {
			t.Fatalf("%d bytes", len(e.Body))
		}
		again := c.encode(nil, e)
		if again == nil {
			return // more than the bucket keeps
		}
		same, err := c.decode(t.Context(), again, Wanted{}, here)
		if err != nil {
			t.Fatalf("%q became %q: %v", value, again, err)
		}
		if !bytes.Equal(same.Body, e.Body) || !same.FetchedAt.Equal(e.FetchedAt) || !same.CameAt.Equal(e.CameAt) {
			t.Fatalf("%q became %q", value, again)
		}
		for _, one := range []*Entry{e, same} { // how it lies there is not what it is
			one.Plain, one.Bytes, one.Body = false, 0, nil
			one.FetchedAt, one.CameAt = e.FetchedAt, e.CameAt
			if len(one.Next) == 0 {
				one.Next = nil
			}
		}
		if !reflect.DeepEqual(same, e) {
			t.Fatalf("%+v became %+v", e, same)
		}
	})
}
