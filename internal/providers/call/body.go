package call

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"fetchworker/internal/memory"
)

// MaxBody is the longest decoded body that is an answer, in bytes: 64 MiB.
const MaxBody = memory.MaxBody

// maxErrorBody is what is read of the body of an error: it is shown to
// people, and a few KiB of it decide what it is.
const maxErrorBody = 1 << 20

// bodyReader reads one answer's body within its bounds. A large one is read
// on, and unpacked, only when there is room for it.
type bodyReader struct {
	ctx    context.Context //nolint:containedctx // of the call, without its timeout
	budget *memory.Budget
	limit  int64
	within *patience // of the call
	// around is called around each wait for room, with whether the whole body
	// has come over the connection; nil: nobody has to know.
	around  func(came bool, wait func() error) error
	counted countingReader // of what is read
	look    *look          // of a large body; nil: it was small
}

// wait is around each wait for room, and ours around what only we take time for,
// once all has come: neither is the provider's time.
func (b *bodyReader) wait(came bool, wait func() error) error {
	if b.around == nil {
		return b.ours(wait)
	}
	return b.ours(func() error { return b.around(came, wait) })
}

func (b *bodyReader) ours(do func() error) error { return b.within.during(do) }

// read reads and decodes a body and counts the bytes that came over the wire.
// A body that breaks off is returned as far as it came, with the error.
func (b *bodyReader) read(res *http.Response) (body []byte, wire int64, err error) {
	counted := &b.counted
	counted.from = res.Body
	encoding := res.Header.Get("Content-Encoding")
	switch strings.ToLower(encoding) {
	case "", "identity":
		if res.ContentLength > b.limit {
			err = ErrTooLarge // before anything of it is paid for
			break
		}
		body, err = b.readPlain(counted, res.ContentLength)
	case "gzip", "x-gzip":
		body, err = b.readGzip(counted, res.ContentLength)
	default:
		err = fmt.Errorf("%w: %s was not asked for", errEncoding, encoding)
	}
	return body, counted.n, err
}

// readPlain takes the memory for a body whose size is told at once: one that
// grows leaves copies of itself behind, as large as itself. Of a size that is
// not kept only what comes is touched.
func (b *bodyReader) readPlain(from io.Reader, size int64) ([]byte, error) {
	if size >= 0 && (size <= memory.Small || b.limit <= memory.Small) {
		return readInto(make([]byte, 0, size+1), from, b.limit) // with one more its end is met without growing
	}
	if size >= 0 {
		room, err := b.reserve(size+bytes.MinRead, false)
		if err != nil {
			return nil, err
		}
		defer room.Close()
		return readInto(room.Make(int(size)+bytes.MinRead), from, b.limit)
	}
	start, more, err := readStart(from, size, b.limit)
	if !more || err != nil {
		return trimmed(start), err
	}
	// Nobody knows how long it is: it is read into the most that it may be, and
	// copied out of it if that is more than twice too much.
	room, err := b.reserve(b.limit+b.limit/2+bytes.MinRead, false)
	if err != nil {
		return start, err
	}
	defer room.Close()
	whole, err := readInto(append(room.Make(int(b.limit)+bytes.MinRead), start...), from, b.limit)
	if int64(len(whole)) > b.limit/2 {
		return whole, err
	}
	exact := room.Make(len(whole))
	for piece := range b.budget.Slices(whole) {
		exact = append(exact, piece...)
	}
	return exact, err
}

// readStart reads what needs no room, of a body of that size, if it is known. more says that it was not all.
func readStart(from io.Reader, size, limit int64) (start []byte, more bool, err error) {
	if size >= 0 {
		start, err = readInto(make([]byte, 0, min(size, memory.Small)+bytes.MinRead), from, min(limit, memory.Small))
	} else if start, err = readInto(nil, from, min(limit, memory.Light)); err == ErrTooLarge && limit > memory.Light { //nolint:errorlint // returned bare by readInto
		start, err = readLesser(start[:len(start)+1], from, min(limit, memory.Small))
	}
	if err == ErrTooLarge && limit > memory.Small { //nolint:errorlint // as above
		// The byte beyond is a part of it, too.
		return start[:len(start)+1], true, nil
	}
	return start, false, err
}

// lesser are where bodies that are no longer light are read into, one after the
// other: each would leave twice its size behind while it grows.
var lesser = sync.Pool{New: func() any { return new([memory.Small + 1]byte) }}

// readLesser is readInto for a body whose size nobody knows. What it returns is
// in memory of its own.
func readLesser(start []byte, from io.Reader, limit int64) ([]byte, error) {
	room, _ := lesser.Get().(*[memory.Small + 1]byte)
	defer lesser.Put(room)
	body, err := readInto(append(room[:0], start...), from, limit)
	if err == ErrTooLarge { //nolint:errorlint // returned bare by readInto
		return bytes.Clone(body[:len(body)+1])[:len(body)], err
	}
	return bytes.Clone(body), err
}

// readInto reads on behind what is there, up to limit bytes in all. Where
// there is more, one byte of it lies behind what is returned.
func readInto(body []byte, from io.Reader, limit int64) ([]byte, error) {
	for {
		if len(body) == cap(body) {
			// Twice as much: at append's pace a body of 700 KB was copied five times.
			room := min(max(2*int64(len(body)), bytes.MinRead), limit+bytes.MinRead)
			body = append(make([]byte, 0, room), body...)
		}
		// At most one byte beyond the limit. (The end comes with the last bytes,
		// mostly: a buffer around this loop cost three allocations a call.)
		n, err := from.Read(body[len(body):min(int64(cap(body)), limit+1)])
		switch body = body[:len(body)+n]; {
		case int64(len(body)) > limit:
			return body[:limit], ErrTooLarge
		case err == io.EOF: // a reader never wraps its end
			return body, nil
		case err != nil:
			return body, err
		}
	}
}

// trimmed is a body in no more memory than it needs: what is kept of it is
// counted by its length.
func trimmed(body []byte) []byte {
	if cap(body)-len(body) <= len(body)/4 {
		return body
	}
	return bytes.Clone(body)
}

// readGzip decodes twice: once into nothing to learn the size, once into
// exactly that much memory. So a bomb of any ratio never gets more memory
// than it has sent itself, and a good body is not copied while it grows.
func (b *bodyReader) readGzip(from io.Reader, size int64) ([]byte, error) {
	if size > b.limit {
		return nil, ErrTooLarge
	}
	packed, more, readErr := readStart(from, size, b.limit)
	room := &memory.Room{}
	if more {
		// Packed it is large already: room for that and for whatever it holds is
		// taken together, or two that have the one would wait for the other.
		least := size
		if least < 0 {
			least = b.limit
		}
		var err error
		if room, err = b.reserve(least+bytes.MinRead+b.limit, false); err != nil {
			return nil, err
		}
		packed, readErr = readInto(append(room.Make(int(least)+bytes.MinRead), packed...), from, b.limit)
	}
	defer func() { room.Close() }()
	if len(packed) == 0 || readErr == ErrTooLarge { //nolint:errorlint // returned bare by readInto
		return nil, readErr
	}
	// What has room, or is counted, waits out of everybody's way.
	came := more
	if !came {
		var unpark func()
		if unpark, came = b.budget.Park(len(packed)); came {
			defer unpark()
		}
	}
	size, err := b.unpackedSize(packed, came)
	switch {
	case size > b.limit:
		return nil, ErrTooLarge
	case size < 0:
		return nil, err
	case size > memory.Small && !more:
		var noRoom error
		if room, noRoom = b.reserve(size+bytes.MinRead, came); noRoom != nil {
			room = &memory.Room{}
			return nil, noRoom
		}
	}
	done, stopped := b.turn(size, true)
	if stopped != nil {
		return nil, stopped
	}
	defer done()
	// A buffer that is full doubles before it finds that nothing more comes.
	body := bytes.NewBuffer(room.Make(int(size) + bytes.MinRead))
	again := b.ours(func() error {
		_, err := unzip(body, packed, size, b.looks(size))
		return err
	})
	if err == nil {
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

// unpackedSize is how long a body will be, at most one byte beyond the limit,
// and what is wrong with it behind that. It is less than 0 if the call ended
// before that was known.
func (b *bodyReader) unpackedSize(packed []byte, came bool) (int64, error) {
	size, err := unzip(io.Discard, packed, min(b.limit, memory.Small), nil)
	if size <= memory.Small || size > b.limit {
		return size, err
	}
	done, err := b.turn(size, came)
	if err != nil {
		return -1, err
	}
	defer done()
	err = b.ours(func() (err error) {
		size, err = unzip(io.Discard, packed, b.limit, b.budget.Pace(memory.MaxBody))
		return err
	})
	return size, err
}

// unzip decodes at most one byte more than limit and returns how many it got.
// seen, if there is one, is written each piece as well.
func unzip(to io.Writer, packed []byte, limit int64, seen io.Writer) (int64, error) {
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0, err
	}
	from := io.LimitReader(zr, limit+1)
	if seen != nil {
		from = io.TeeReader(from, seen)
	}
	return io.Copy(to, from)
}

// looks is what looks at a body of that size while it comes; nil for a light
// one.
func (b *bodyReader) looks(size int64) io.Writer {
	if size <= memory.Light {
		return nil
	}
	b.look = newLook(b.budget, size)
	return b.look
}

// looked is what was learnt of a body that was read; nil for a light one.
func (b *bodyReader) looked(body []byte) *look {
	if len(body) <= memory.Light {
		return nil
	}
	if b.look == nil {
		b.look = newLook(b.budget, int64(len(body)))
	}
	b.look.over(body)
	return b.look
}

// reserve waits for room. came: the connection is not needed any more.
func (b *bodyReader) reserve(size int64, came bool) (*memory.Room, error) {
	if room := b.budget.TryReserve(size); room != nil {
		return room, nil
	}
	var room *memory.Room
	err := b.wait(came, func() (err error) {
		room, err = b.budget.Reserve(b.ctx, size)
		return err
	})
	return room, err
}

// turn waits until a body of that size may be looked through. came: the
// connection is not needed any more.
func (b *bodyReader) turn(size int64, came bool) (done func(), err error) {
	switch {
	case size <= memory.Light:
		return func() {}, nil
	case size <= memory.Small:
		// It keeps its slot, or nothing would bound how many wait.
		return b.await(false, b.budget.LesserTurn)
	default:
		return b.await(came, b.budget.Turn)
	}
}

// await waits for a turn. (It is apart because even where it is not reached what
// it fills in would be made.)
func (b *bodyReader) await(came bool, turn func(context.Context) (func(), error)) (done func(), err error) {
	done = func() {}
	err = b.wait(came, func() (err error) {
		done, err = turn(b.ctx)
		return err
	})
	return done, err
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
