package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"fetchworker"
)

// A slow client's bytes are let go and read again: they must be the same.
func TestWhatWasLetGoIsReadAgain(t *testing.T) {
	whole := []byte(strings.Repeat("0123456789", 10))
	for name, c := range map[string]struct {
		again []byte
		err   error
		good  bool
	}{
		"the same": {whole, nil, true}, "shorter": {whole[:50], nil, false}, "longer": {append(whole[:100:100], 'x'), nil, false}, "nothing": {nil, nil, false}, "not now": {nil, io.EOF, false},
	} {
		l := &loaned{bytes: whole, whole: len(whole)}
		read := 0
		again := func(context.Context) ([]byte, error) { read++; return c.again, c.err }
		var got []byte
		piece := make([]byte, 30)
		var err error
		for at := 0; at < len(whole) && err == nil; {
			var n int
			if n, err = l.piece(t.Context(), piece, at, again); err == nil {
				got = append(got, piece[:n]...)
				at += n
			}
			if at == 30 {
				l.letGo()
			}
		}
		if (err == nil) != c.good || c.good && (!bytes.Equal(got, whole) || read != 1) {
			t.Errorf("%s: %q after %d reads, %v", name, got, read, err)
		}
		if !c.good && c.err == nil && !errors.Is(err, fetchworker.ErrBodyCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
