package call

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"math"
	"runtime"
	"testing"
	"time"

	"fetchworker/internal/memory"
)

// A body of exactly the limit is read, one byte more is refused, packed or not.
func TestLimitIsExact(t *testing.T) {
	for _, limit := range []int{1000, memory.Light, memory.Small, memory.Small + 1} {
		for size, tooLarge := range map[int]bool{0: false, 1: false, limit: false, limit + 1: true, limit + 70_000: true} {
			body := bytes.Repeat([]byte("0123456789a"), size/11+1)[:size]
			var packed bytes.Buffer
			zw := gzip.NewWriter(&packed)
			if _, err := zw.Write(body); err != nil {
				t.Fatal(err)
			}
			if err := zw.Close(); err != nil {
				t.Fatal(err)
			}
			b := unbounded(int64(limit))
			plain, err := b.readPlain(bytes.NewReader(body), -1)
			if errors.Is(err, ErrTooLarge) != tooLarge || !tooLarge && !bytes.Equal(plain, body) {
				t.Errorf("%d bytes of %d: %v, got %d", size, limit, err, len(plain))
			}
			unpacked, err := b.readGzip(&packed, -1)
			if errors.Is(err, ErrTooLarge) != tooLarge || !tooLarge && !bytes.Equal(unpacked, body) {
				t.Errorf("%d bytes of %d packed: %v, got %d", size, limit, err, len(unpacked))
			}
		}
	}
}

// A body whose size was told is read into exactly one piece of memory, also if
// it breaks off.
func TestAToldSizeIsTakenAtOnce(t *testing.T) {
	body := bytes.Repeat([]byte("x"), 1<<20)
	for told, want := range map[int64]int{-1: 1 << 20, 1 << 20: 1 << 20, 2 << 20: 1 << 20, 0: 1 << 20} {
		got, err := unbounded(4<<20).readPlain(bytes.NewReader(body), told)
		if err != nil || len(got) != want {
			t.Errorf("told %d: %d bytes, %v", told, len(got), err)
		}
	}
	got, err := unbounded(4<<20).readPlain(bytes.NewReader(body), int64(len(body)))
	if err != nil || cap(got) > len(body)+bytes.MinRead {
		t.Errorf("%d bytes taken for %d: %v", cap(got), len(body), err)
	}
}

// A body of no told size is copied a few times at the most, and kept in hardly
// more memory than it needs.
func TestABodyOfNoToldSizeIsHardlyCopied(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, 5_000, 40_000, memory.Light, memory.Light + 1, 700_000, 1 << 20} {
		body := bytes.Repeat([]byte("x"), size)
		var got []byte
		var err error
		least := uint64(math.MaxUint64) // of some: others may take memory, too, and what is used again is not always there
		for range 10 {
			before := allocated()
			got, err = unbounded(4<<20).readPlain(bytes.NewReader(body), -1)
			least = min(least, allocated()-before)
		}
		if least > uint64(4*size+20<<10) {
			t.Errorf("%d bytes were allocated for %d", least, size)
		}
		if err != nil || !bytes.Equal(got, body) || cap(got) > size+size/4+64 {
			t.Errorf("%d bytes in %d for %d: %v", len(got), cap(got), size, err)
		}
	}
}

func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

// unbounded reads bodies of up to limit bytes for one who never waits.
func unbounded(limit int64) *bodyReader {
	return &bodyReader{within: newPatience(context.Background(), time.Hour), limit: limit}
}
