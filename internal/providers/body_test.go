package providers

import (
	"bytes"
	"compress/gzip"
	"errors"
	"testing"
)

// A body of exactly the limit is read, one byte more is refused, packed or not.
func TestLimitIsExact(t *testing.T) {
	const limit = 1000
	for size, tooLarge := range map[int]bool{0: false, 1: false, limit: false, limit + 1: true, 50 * limit: true} {
		body := bytes.Repeat([]byte("x"), size)
		var packed bytes.Buffer
		zw := gzip.NewWriter(&packed)
		if _, err := zw.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		plain, err := readLimited(bytes.NewReader(body), limit)
		if errors.Is(err, ErrTooLarge) != tooLarge || !tooLarge && !bytes.Equal(plain, body) {
			t.Errorf("%d bytes: %v, got %d", size, err, len(plain))
		}
		unpacked, err := readGzip(&packed, limit)
		if errors.Is(err, ErrTooLarge) != tooLarge || !tooLarge && !bytes.Equal(unpacked, body) {
			t.Errorf("%d bytes packed: %v, got %d", size, err, len(unpacked))
		}
	}
}
