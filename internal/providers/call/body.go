package call

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// MaxBody is the longest decoded body that is an answer, in bytes: 64 MiB.
const MaxBody = 64 << 20

// maxErrorBody is what is read of the body of an error: it is shown to
// people, and a few KiB of it decide what it is.
const maxErrorBody = 1 << 20

// readBody reads and decodes a body and counts the bytes that came over the
// wire. A body that breaks off is returned as far as it came, with the error.
func readBody(res *http.Response) (body []byte, wire int64, err error) {
	limit := int64(MaxBody)
	if res.StatusCode >= http.StatusMultipleChoices {
		limit = maxErrorBody
	}
	counted := &countingReader{from: res.Body}
	encoding := res.Header.Get("Content-Encoding")
	switch strings.ToLower(encoding) {
	case "", "identity":
		if res.ContentLength > limit {
			err = ErrTooLarge // before anything of it is paid for
			break
		}
		body, err = readSized(counted, res.ContentLength, limit)
	case "gzip", "x-gzip":
		body, err = readGzip(counted, limit)
	default:
		err = fmt.Errorf("%w: %s was not asked for", errEncoding, encoding)
	}
	return body, counted.n, err
}

// readGzip decodes twice: once into nothing to learn the size, once into
// exactly that much memory. So a bomb of any ratio never gets more memory
// than it has sent itself, and a good body is not copied while it grows.
func readGzip(from io.Reader, limit int64) ([]byte, error) {
	packed, readErr := readLimited(from, limit)
	if len(packed) == 0 || readErr == ErrTooLarge { //nolint:errorlint // returned bare by readLimited
		return nil, readErr
	}
	size, err := unzip(io.Discard, packed, limit)
	if size > limit {
		return nil, ErrTooLarge
	}
	body := bytes.NewBuffer(make([]byte, 0, size))
	if _, again := unzip(body, packed, size); err == nil {
		err = again
	}
	if readErr != nil {
		return body.Bytes(), readErr // the connection's fault comes first
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errEncoding, err)
	}
	return body.Bytes(), err
}

// unzip decodes at most one byte more than limit and returns how many it got.
func unzip(to io.Writer, packed []byte, limit int64) (int64, error) {
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0, err
	}
	return io.Copy(to, io.LimitReader(zr, limit+1))
}

func readLimited(from io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(from, limit+1))
	if int64(len(body)) > limit {
		return body[:limit], ErrTooLarge
	}
	return body, err
}

// readSized takes the memory for a body whose size is told at once: one that
// grows leaves copies of itself behind, as large as itself. Of a size that is
// not kept only what comes is touched.
func readSized(from io.Reader, size, limit int64) ([]byte, error) {
	if size < 0 {
		return readLimited(from, limit)
	}
	body := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	_, err := body.ReadFrom(io.LimitReader(from, limit+1))
	return body.Bytes(), err
}

// countingReader counts what passes.
type countingReader struct {
	from io.Reader
	n    int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.n += int64(n)
	return n, err
}
