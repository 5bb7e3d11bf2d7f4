package memory_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fetchworker/internal/memory"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// Whatever is cut of a body keeps its room; the room is back when nothing
// does, with nobody having said so.
func TestRoomIsBackWhenTheBodyIsGarbage(t *testing.T) {
	b := memory.New(100 * mib)
	room, err := b.Reserve(t.Context(), 60*mib)
	if err != nil {
		t.Fatal(err)
	}
	kept := room.Make(60 * mib)[:10][3:4]
	room.Close()
	if r := b.TryReserve(60 * mib); r != nil {
		t.Fatal("there was room for two")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Reserve(ctx, 60*mib); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("room for two: %v", err)
	}
	runtime.KeepAlive(kept)
	room, err = b.Reserve(t.Context(), 60*mib)
	if err != nil {
		t.Fatal(err)
	}
	room.Close()
	if r := b.TryReserve(100 * mib); r == nil {
		t.Error("not all of the room is back")
	}
}

// A hundred bodies of 10 MiB in a budget of 40: never more than four are
// there, and each gets its turn.
func TestManyLargeBodiesTakeTurns(t *testing.T) {
	b := memory.New(40 * mib)
	var held, most atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			room, err := b.Reserve(t.Context(), 10*mib)
			if err != nil {
				t.Error(err)
				return
			}
			body := room.Make(10 * mib)
			room.Close()
			n := held.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond)
			held.Add(-1)
			runtime.KeepAlive(body)
			b.Ended()
		})
	}
	all.Wait()
	if most.Load() > 4 {
		t.Errorf("%d at once", most.Load())
	}
}

// What is only kept in case is given up for one who waits; what is more than
// the whole budget gets all of it.
func TestSpareMemoryIsGivenUp(t *testing.T) {
	b := memory.New(10 * mib)
	room, err := b.Reserve(t.Context(), 50*mib)
	if err != nil {
		t.Fatal(err)
	}
	cached := room.Make(8 * mib)
	room.Close()
	var mu sync.Mutex
	b.Spare(func() {
		mu.Lock()
		defer mu.Unlock()
		cached = nil
	})
	room, err = b.Reserve(t.Context(), 10*mib)
	if err != nil {
		t.Fatal(err)
	}
	room.Close()
	mu.Lock()
	defer mu.Unlock()
	if cached != nil {
		t.Error("room was made without what could be spared")
	}
}

// The pieces are the body, and none is more than a processor looks through in
// a moment.
func TestSlicesAreTheBody(t *testing.T) {
	for _, size := range []int{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 3 << 20} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i % 251)
		}
		var whole []byte
		for piece := range memory.New(mib).Slices(body) {
			if len(piece) == 0 || len(piece) > 256<<10 {
				t.Errorf("of %d bytes a piece of %d", size, len(piece))
			}
			whole = append(whole, piece...)
		}
		if !bytes.Equal(whole, body) {
			t.Errorf("of %d bytes %d are looked through", size, len(whole))
		}
		for range memory.New(mib).Slices(body) {
			break // and nobody minds
		}
	}
}

// Whatever was taken is given back: turns, places of what waits to be unpacked,
// and no more room than there was.
func TestAllThatIsTakenIsGivenBack(t *testing.T) {
	b := memory.New(40 * mib)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n := range 100 {
		done, err := b.Turn(ctx)
		if err != nil {
			t.Fatalf("turn %d: %v", n, err)
		}
		done()
		unpark, ok := b.Park(10 * mib)
		if !ok {
			t.Fatalf("there is no place for the %dth that waits", n)
		}
		if _, more := b.Park(1); more {
			t.Fatal("more than a quarter waits")
		}
		unpark()
	}
	room, err := b.Reserve(ctx, mib)
	if err != nil {
		t.Fatal(err)
	}
	body := room.Make(4 * mib) // more than was reserved, which its caller knows
	room.Close()
	if b.TryReserve(39*mib+1) != nil {
		t.Error("a body has no room of its own")
	}
	runtime.KeepAlive(body)
	rest, err := b.Reserve(ctx, 40*mib)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // whatever is collected later
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if b.TryReserve(1) != nil {
		t.Error("there is more room than all")
	}
	rest.Close()
}

// Who does not wait takes nothing from one who does.
func TestWhoWaitsIsNext(t *testing.T) {
	b := memory.New(40 * mib)
	most, err := b.Reserve(t.Context(), 30*mib)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan *memory.Room)
	go func() {
		room, err := b.Reserve(t.Context(), 20*mib)
		if err != nil {
			t.Error(err)
		}
		waits <- room
	}()
	for tries := 0; ; tries++ {
		room := b.TryReserve(10 * mib)
		if room == nil {
			break // the other one waits
		}
		if room.Close(); tries == 10_000 {
			t.Fatal("who waits is not before who comes later")
		}
		time.Sleep(time.Millisecond)
	}
	for range 50 {
		if b.TryReserve(mib) != nil {
			t.Fatal("taken before one who waits")
		}
	}
	most.Close()
	(<-waits).Close()
}
