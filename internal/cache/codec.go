package cache

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"fetchworker/internal/memory"

	"github.com/klauspost/compress/zstd"
)

// encode writes an entry as the length of its head, the head as JSON, and the
// body, compressed if that is worth it. nil is more than the bucket keeps.
func (c *Cache) encode(value []byte, e *Entry) []byte {
	plain := len(e.Body) < worthZipping
	c.head = e.appendHead(c.head[:0], plain)
	value = append(binary.AppendUvarint(value, uint64(len(c.head))), c.head...)
	switch {
	case plain:
		return append(value, e.Body...)
	case len(e.Body) <= memory.Light:
		return c.zip.EncodeAll(e.Body, value)
	case len(e.Body) > memory.Small:
		done, err := c.memory.Turn(context.Background())
		if err != nil {
			return nil
		}
		defer done()
	}
	// In pieces, between which small answers go on. One that does not fit is not
	// worth the memory that it would take.
	bounded := &boundedBuffer{Buffer: bytes.NewBuffer(value)}
	c.zip.Reset(bounded)
	for piece := range c.memory.Slices(e.Body) {
		if _, err := c.zip.Write(piece); err != nil {
			return nil
		}
	}
	if err := c.zip.Close(); err != nil {
		return nil
	}
	return bounded.Bytes()
}

// boundedBuffer takes what the bucket keeps.
type boundedBuffer struct{ *bytes.Buffer }

func (b *boundedBuffer) Write(data []byte) (int, error) {
	if b.Len()+len(data) > cachedLimit {
		return 0, errTooMuch
	}
	return b.Buffer.Write(data)
}

var (
	errTooMuch    = errors.New("more than the bucket keeps")
	errCacheValue = errors.New("the cached value cannot be read")
)

func (c *Cache) decode(ctx context.Context, value []byte, wanted Wanted, aside Aside) (*Entry, error) {
	size, n := binary.Uvarint(value)
	if n <= 0 || size > uint64(len(value)-n) { //nolint:gosec // n is at most the length
		return nil, errCacheValue
	}
	head, body := value[n:n+int(size)], value[n+int(size):] //nolint:gosec // bounded by the check above
	e := new(Entry)
	if err := json.Unmarshal(head, e); err != nil {
		return nil, fmt.Errorf("%w: %w", errCacheValue, err)
	}
	if e.Plain {
		e.Body = body
		return e, nil
	}
	if e.Bytes > memory.Small && !wanted.includes(e) {
		e.light = true
		return e, nil
	}
	into, err := c.roomFor(ctx, e.Bytes, body, aside)
	if err != nil {
		return nil, err
	}
	if cap(into) > 0 {
		done := func() {}
		if err := aside(func() (err error) {
			done, err = c.memory.Turn(ctx)
			return err
		}); err != nil {
			return nil, err
		}
		defer done()
	}
	if e.Body, err = c.unzip.DecodeAll(body, into); err != nil {
		return nil, fmt.Errorf("%w: %w", errCacheValue, err)
	}
	return e, nil
}

// decodeBeyond is what the decoder wants behind a body, or it takes new memory.
const decodeBeyond = 16

// roomFor is memory for a body, which a large one waits for. Values of earlier
// versions tell its length in the compressed frame only.
func (c *Cache) roomFor(ctx context.Context, length int, packed []byte, aside Aside) ([]byte, error) {
	var frame zstd.Header
	if length == 0 && frame.Decode(packed) == nil && frame.HasFCS {
		length = int(min(frame.FrameContentSize, decodedLimit)) // bounded
	}
	if length <= memory.Small || length > decodedLimit {
		return nil, nil
	}
	room := c.memory.TryReserve(int64(length))
	if room == nil {
		if err := aside(func() (err error) {
			room, err = c.memory.Reserve(ctx, int64(length))
			return err
		}); err != nil {
			return nil, err
		}
	}
	defer room.Close()
	return room.Make(length + decodeBeyond), nil
}
