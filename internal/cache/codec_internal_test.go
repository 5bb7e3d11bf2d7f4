package cache

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/memory"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"
)

// A large body is written and read within the memory that was reserved for it,
// and one that the bucket does not keep takes none.
func TestLargeBodiesAreCodedWithinTheirRoom(t *testing.T) {
	zip, err := newZip()
	if err != nil {
		t.Fatal(err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(decodedLimit))
	if err != nil {
		t.Fatal(err)
	}
	defer unzip.Close()
	c := &Cache{memory: memory.New(100 << 20), zip: zip, unzip: unzip}
	const size = 30 << 20
	body := []byte(strings.Repeat("0123456789abcdef", size/16))
	value := c.encode(nil, &Entry{Body: body})
	if value == nil {
		t.Fatal("it was not kept")
	}
	waits := 0
	aside := func(wait func() error) error {
		waits++
		return wait()
	}
	for name, value := range map[string][]byte{"ours": value, "an earlier version's": c.zip.EncodeAll(body, []byte("\x02{}"))} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e, err := c.decode(t.Context(), value, Wanted{}, aside)
		runtime.ReadMemStats(&after)
		if err != nil || !bytes.Equal(e.Body, body) {
			t.Fatalf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > size+4<<20 {
			t.Errorf("%s took %d MiB", name, took>>20)
		}
	}
	if waits != 2 { // for its turn each; there is room
		t.Errorf("%d waits", waits)
	}
	noise := make([]byte, size)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	value = c.encode(nil, &Entry{Body: noise})
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; value != nil || took > 8<<20 {
		t.Errorf("%d MiB for one that is not kept", took>>20)
	}
}

// Whatever its size, a body comes back as it went, while small answers are on
// their way and without.
func TestBodiesOfAnySizeComeBack(t *testing.T) {
	zip, err := newZip()
	if err != nil {
		t.Fatal(err)
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(decodedLimit))
	if err != nil {
		t.Fatal(err)
	}
	defer unzip.Close()
	budget := memory.New(100 << 20)
	c := &Cache{memory: budget, zip: zip, unzip: unzip}
	aside := func(wait func() error) error { return wait() }
	for _, small := range []func(){func() {}, budget.Small} {
		for _, size := range []int{worthZipping - 1, worthZipping, memory.Light, memory.Light + 1, 700_000, memory.Small, memory.Small + 1} {
			body := bytes.Repeat([]byte("0123456789,"), size/11+1)[:size]
			small()
			value := c.encode([]byte{}, &Entry{Body: body})
			e, err := c.decode(t.Context(), value, Wanted{}, aside)
			if err != nil || !bytes.Equal(e.Body, body) || size >= worthZipping && len(value) > size/10 {
				t.Errorf("%d bytes as %d: %v", size, len(value), err)
			}
		}
	}
}

// What a value unpacks to is bounded, whatever it says of itself: others write to
// the bucket, too.
func TestAValueThatUnpacksToMoreThanAnyBody(t *testing.T) {
	c, err := New(brokertest.Start(t).JS, nil, memory.New(1<<30), zap.NewNop(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bomb := c.zip.EncodeAll(make([]byte, decodedLimit+1), nil)
	for _, head := range []string{`{"http_status":200}`, `{"http_status":200,"bytes":10}`, `{"http_status":200,"bytes":2147483648}`} {
		value := append(append([]byte{byte(len(head))}, head...), bomb...)
		e, err := c.decode(t.Context(), value, Wanted{}, func(wait func() error) error { return wait() })
		if err == nil {
			t.Errorf("%s: a body of %d bytes", head, len(e.Body))
		}
	}
}
