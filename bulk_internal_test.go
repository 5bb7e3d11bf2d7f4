package fetchworker

import (
	"context"
	"testing"
)

// What has come and nobody has taken yet is bounded, each request is told of
// once, and its place is free when it is taken.
func TestABulkHoldsLittleAndTellsOnce(t *testing.T) {
	c := &Client{agent: "alice"}
	c.watcher = newWatcher(c)
	const n = 5
	b := &bulk{c: c, holds: bodiesHeld, ended: newArrivals[*asked](), outstanding: map[*asked]struct{}{}, room: make(chan struct{}, n)}
	large := make([]byte, bodiesHeld/3)
	var all []*asked
	for range n {
		one := &asked{watch: newWatch(Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: NewID()}, nil), roomy: true}
		b.room <- struct{}{}
		b.outstanding[one] = struct{}{}
		all = append(all, one)
		b.got(one, Answer{Final: true, Body: large}, nil)
		b.got(one, Answer{Final: true, Body: large}, nil) // a live copy, and what is stored
	}
	if b.held > bodiesHeld {
		t.Errorf("%d bytes are held, of %d", b.held, bodiesHeld)
	}
	for range n {
		one, err := b.ended.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.drop(one)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if one, err := b.ended.next(ended); err == nil {
		t.Errorf("%v is told of twice", one)
	}
	if len(b.room) != 0 || b.held != 0 || b.left() != 0 {
		t.Errorf("%d places, %d bytes and %d requests are left", len(b.room), b.held, b.left())
	}
	if again := all[n-1].reread; !again {
		t.Error("what went beyond is not read again")
	}
}
