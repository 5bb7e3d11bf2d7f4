package budget

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// entry is a value of the bucket as the watch tells it; nil where there is none.
type entry struct {
	key   string
	value []byte
	rev   uint64
	at    time.Time // when it was stored; zero if it never was
}

// watch tells of every change to some keys, and after a reconnect of all of
// them anew.
type watch struct {
	conn *nats.Conn
	kv   jetstream.KeyValue
	keys []string
	see  func(entry)
	lost func() // what was seen may be old: all follows anew
	all  func() // all has been told; may be nil
}

// run watches until ctx ends. It closes ready when everything has been told once.
func (w *watch) run(ctx context.Context, ready chan<- struct{}) {
	status := w.conn.StatusChanged(nats.CONNECTED)
	defer w.conn.RemoveStatusListener(status)
	for try := 0; ctx.Err() == nil; try++ {
		if w.once(ctx, status, ready) {
			try, ready = 0, nil
		}
		w.lost()
		if wait(ctx, 50*time.Millisecond<<min(try, 5)) != nil {
			return
		}
	}
}

// once watches until the connection was away, and reports whether it saw all.
func (w *watch) once(ctx context.Context, status <-chan nats.Status, ready chan<- struct{}) bool {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher, err := w.kv.WatchFiltered(watching, append([]string(nil), w.keys...))
	if err != nil {
		return false
	}
	defer func() {
		_ = watcher.Stop() // it fails only if the connection is gone, and the watch with it
		for range watcher.Updates() {
			// The client's callback may be about to send; let it end.
		}
	}()
	missing := make(map[string]bool, len(w.keys))
	for _, key := range w.keys {
		missing[key] = true
	}
	whole := false
	for {
		select {
		case e, ok := <-watcher.Updates():
			switch {
			case !ok:
				return whole
			case e != nil:
				delete(missing, e.Key())
				next := entry{key: e.Key(), rev: e.Revision(), at: e.Created()}
				if e.Operation() == jetstream.KeyValuePut {
					next.value = e.Value()
				}
				w.see(next)
			case !whole:
				whole = true
				for key := range missing {
					w.see(entry{key: key})
				}
				if w.all != nil {
					w.all()
				}
				if ready != nil {
					close(ready)
				}
			}
		case <-status:
			return whole
		case <-ctx.Done():
			return whole
		}
	}
}
