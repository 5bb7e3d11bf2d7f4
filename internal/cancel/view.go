package cancel

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	markPrefix = "cancel." // then provider and agent
	beatPrefix = "calls."  // then the worker that may call
)

func markKey(provider, agent string) string { return markPrefix + provider + "." + agent }

func markSubject(provider, agent string) string {
	return "$KV." + wire.BucketProviders + "." + markKey(provider, agent)
}

// View is what this process sees of the marks. It watches until Close.
type View struct {
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	cancel context.CancelFunc
	done   chan struct{}
	again  chan struct{}  // the watch is to be opened anew
	ending sync.WaitGroup // watches of before, of which the servers are told

	mu      sync.RWMutex
	marks   map[string]seenMark // by provider and agent
	beats   map[string]time.Time
	seen    uint64        // revision up to which everything is in it
	changed chan struct{} // closed and made anew with every entry
	onMark  []func(provider, agent string)
	tell    func(provider, agent, subject string) // says that a mark was seen; nil: nobody asks us
}

type seenMark struct {
	Mark
	revision uint64
	stored   time.Time
}

// Watch opens a view and returns when it has seen everything.
func Watch(ctx context.Context, js jetstream.JetStream, kv jetstream.KeyValue) (*View, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	v := &View{
		js: js, kv: kv, cancel: cancel, done: make(chan struct{}), again: make(chan struct{}, 1),
		marks: map[string]seenMark{}, beats: map[string]time.Time{}, changed: make(chan struct{}),
	}
	ready := make(chan struct{})
	go func() {
		defer close(v.done)
		v.run(run, ready)
	}()
	select {
	case <-ready:
		return v, nil
	case <-ctx.Done():
		v.Close()
		return nil, context.Cause(ctx)
	}
}

// Close stops watching and waits for it.
func (v *View) Close() {
	v.cancel()
	<-v.done
	v.ending.Wait()
}

// Judge says whether a request is cancelled, as far as is seen here.
func (v *View) Judge(r Request) Verdict {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.marks) == 0 {
		return Goes
	}
	m, marked := v.marks[r.Provider+"."+r.Agent]
	if !marked {
		return Goes
	}
	return m.judge(r)
}

// OnMark has a function called for each mark that is new, and for those that
// are there already. It must not block.
func (v *View) OnMark(do func(provider, agent string)) {
	v.mu.Lock()
	v.onMark = append(v.onMark, do)
	there := slices.Collect(maps.Keys(v.marks))
	v.mu.Unlock()
	for _, key := range there {
		provider, agent, _ := strings.Cut(key, ".")
		do(provider, agent)
	}
}

// run watches, and after a reconnect anew: what is there is then told again.
func (v *View) run(ctx context.Context, ready chan struct{}) {
	status := v.js.Conn().StatusChanged(nats.CONNECTED)
	defer v.js.Conn().RemoveStatusListener(status)
	for try := 0; ctx.Err() == nil; try++ {
		if v.once(ctx, status, ready, wait.ToOpen(try)) {
			try, ready = 0, nil
		}
		if wait.For(ctx, 50*time.Millisecond<<min(try, 3)) != nil {
			return
		}
	}
}

// reopen opens the watch anew: it has not told what is stored.
func (v *View) reopen() { wait.Signal(v.again) }

// once watches until the connection was away or the watch is dead, and reports
// whether it saw all. opens is how long it may take to open.
func (v *View) once(ctx context.Context, status <-chan nats.Status, ready chan struct{}, opens time.Duration) (whole bool) {
	select {
	case <-v.again: // that was about the watch before
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(opens, cancel)
	watcher, err := v.kv.WatchFiltered(ctx, []string{markPrefix + ">", beatPrefix + ">"})
	if err != nil {
		return false
	}
	late.Stop()                // too late, it ends at once
	defer v.ending.Go(func() { // while servers elect a leader they say nothing to it for five seconds
		_ = watcher.Stop() // it fails only if the connection is gone, and the watch with it
		for range watcher.Updates() {
			// The client's callback may be about to send; let it end.
		}
	})
	for {
		select {
		case e, ok := <-watcher.Updates():
			switch {
			case !ok:
				return whole
			case e != nil:
				v.see(e)
			case !whole:
				whole = true
				if ready != nil {
					close(ready)
				}
			}
		case <-v.again:
			return whole
		case <-status:
			return whole
		case <-ctx.Done():
			return whole
		}
	}
}

func (v *View) see(e jetstream.KeyValueEntry) {
	put := e.Operation() == jetstream.KeyValuePut
	fresh := false
	key, isMark := strings.CutPrefix(e.Key(), markPrefix)
	v.mu.Lock()
	switch name, isBeat := strings.CutPrefix(e.Key(), beatPrefix); {
	case isMark:
		fresh = v.seeMark(key, put, e)
	case isBeat && put:
		v.beats[name] = e.Created()
	case isBeat:
		delete(v.beats, name)
	}
	tell, mark, onMark := v.tell, v.marks[key], v.onMark
	v.seen = max(v.seen, e.Revision())
	close(v.changed)
	v.changed = make(chan struct{})
	v.mu.Unlock()
	if !fresh {
		return
	}
	// From here on nobody in this process judges by the mark before.
	provider, agent, _ := strings.Cut(key, ".")
	if tell != nil && mark.Tell != "" {
		tell(provider, agent, mark.Tell)
	}
	for _, do := range onMark {
		do(provider, agent)
	}
}

// seeMark notes a mark, and reports whether it was not seen before.
func (v *View) seeMark(key string, put bool, e jetstream.KeyValueEntry) bool {
	var m Mark
	if !put || json.Unmarshal(e.Value(), &m) != nil {
		delete(v.marks, key)
		return false
	}
	again := v.marks[key].revision == e.Revision()
	v.marks[key] = seenMark{m, e.Revision(), e.Created()}
	return !again
}

// storedAt is when a mark was stored; if another has replaced it, at the
// latest by then.
func (v *View) storedAt(provider, agent string, revision uint64, notBefore time.Time) time.Time {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if m := v.marks[provider+"."+agent]; m.revision == revision {
		return m.stored
	}
	return notBefore
}

// until waits until everything up to a revision is seen.
func (v *View) until(ctx context.Context, revision uint64) error {
	for {
		v.mu.RLock()
		seen, changed := v.seen, v.changed
		v.mu.RUnlock()
		if seen >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// read reads an agent's mark with its revision, which is also that of a mark
// that is gone and has left word of that; 0: there was none for long.
func read(ctx context.Context, log *record.Log, provider, agent string) (Mark, uint64, error) {
	stands, err := log.Last(ctx, "KV_"+wire.BucketProviders, markSubject(provider, agent))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Mark{}, 0, nil
	}
	if err != nil {
		return Mark{}, 0, err
	}
	var m Mark
	_ = json.Unmarshal(stands.Data, &m) // what cannot be read is replaced, and so is what is gone: it has no text
	return m, stands.Sequence, nil
}

// callers are the workers that may begin a call by what they knew before a
// moment, with how long each may at the most.
func (v *View) callers(at time.Time) map[string]time.Duration {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := map[string]time.Duration{}
	for name, beat := range v.beats {
		if left := beat.Add(leaseLasts + skew).Sub(at); left > 0 {
			all[name] = left
		}
	}
	return all
}

// Of is the request that a letter, or a request on its way, is to a mark.
func Of(i fetchworker.Identity, lane fetchworker.Lane, stored time.Time) Request {
	return Request{Identity: i, Lane: lane, Stored: stored}
}
