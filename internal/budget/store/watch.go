package store

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/wait"
)

// Entry is a value of the bucket as the watch tells it; nil where there is none.
type Entry struct {
	Key   string
	Value []byte
	Rev   uint64
	At    time.Time // when it was stored; zero if it never was
}

// Watch tells of every change to some keys, and after a reconnect of all of
// them anew.
type Watch struct {
	Conn *nats.Conn
	KV   jetstream.KeyValue
	Keys []string
	See  func(Entry)
	Lost func() // what was seen may be old: all follows anew
	All  func() // all has been told; may be nil
}

// Run watches until ctx ends. It closes ready when everything has been told once.
func (w *Watch) Run(ctx context.Context, ready chan<- struct{}) {
	status := w.Conn.StatusChanged(nats.CONNECTED)
	defer w.Conn.RemoveStatusListener(status)
	for try := 0; ctx.Err() == nil; try++ {
		if w.once(ctx, status, ready) {
			try, ready = 0, nil
		}
		w.Lost()
		if wait.For(ctx, 50*time.Millisecond<<min(try, 5)) != nil {
			return
		}
	}
}

// once watches until the connection was away, and reports whether it saw all.
func (w *Watch) once(ctx context.Context, status <-chan nats.Status, ready chan<- struct{}) bool {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher, err := w.KV.WatchFiltered(watching, append([]string(nil), w.Keys...))
	if err != nil {
		return false
	}
	defer func() {
		_ = watcher.Stop() // it fails only if the connection is gone, and the watch with it
		for range watcher.Updates() {
			// The client's callback may be about to send; let it end.
		}
	}()
	missing := make(map[string]bool, len(w.Keys))
	for _, key := range w.Keys {
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
				next := Entry{Key: e.Key(), Rev: e.Revision(), At: e.Created()}
				if e.Operation() == jetstream.KeyValuePut {
					next.Value = e.Value()
				}
				w.See(next)
			case !whole:
				whole = true
				for key := range missing {
					w.See(Entry{Key: key})
				}
				if w.All != nil {
					w.All()
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
