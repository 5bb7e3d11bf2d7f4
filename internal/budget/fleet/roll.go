package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fetchworker/internal/budget/store"
	"fetchworker/internal/wait"
)

// roll is who lives, for those to whom it matters seldom: a watch over the
// workers' keys that is opened by a question and ends when for a while there was
// none. Each beat is told to all who watch, so an idle fleet would spend nearly
// all of its messages on what nobody asks.
type roll struct {
	open func(context.Context) (*store.Mirror, error)

	mu     sync.Mutex // held while it is opened or closed
	mirror *store.Mirror
	end    func() // of the mirror
	rest   *time.Timer
	asked  time.Time
	failed time.Time // when the server could not be asked
	shut   bool
	ending sync.WaitGroup // mirrors that are being closed
}

const (
	// rollLasts is after how long without a question nobody looks any more.
	rollLasts = 10 * time.Second
	// rollTime bounds what a question waits for the server.
	rollTime = 2 * time.Second
)

// OwnKeys are what a worker's copy of the bucket has of it: what is shared of
// providers, and that it lives itself.
func OwnKeys(worker string) []string {
	return []string{store.PermitsKey("*"), store.QuotaKey("*"), store.CircuitKey("*"), store.ControlKey("*"), store.WorkerKey(worker)}
}

// Consult is Follow over a copy of the bucket without the other workers' keys:
// the view looks who lives when it is asked.
func Consult(js jetstream.JetStream, kv jetstream.KeyValue, m *store.Mirror) *View {
	v := newView(m)
	v.roll = &roll{open: func(ctx context.Context) (*store.Mirror, error) {
		if !js.Conn().IsConnected() {
			return nil, nats.ErrDisconnected
		}
		return store.NewMirror(ctx, js, kv, m.Clock(), store.WorkerKey("*"))
	}}
	v.leave = m.Follow(&store.Follower{See: v.see, Lost: v.restart, All: v.whole})
	return v
}

// ask has the view know who lives. While the server cannot be asked it knows
// what it knew, believes nobody for long, and tells of nobody that he is gone:
// he may have come or gone while nobody looked.
func (v *View) ask() {
	r := v.roll
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = time.Now()
	if r.mirror != nil || r.shut || time.Since(r.failed) < rollTime { // one waits for a server that does not answer, for all
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rollTime)
	defer cancel()
	mirror, err := r.open(ctx)
	if err != nil {
		r.failed = time.Now()
		v.mu.Lock()
		v.blind = r.failed
		v.mu.Unlock()
		return
	}
	v.mu.Lock()
	v.left, v.blind = mirror.Erased(), time.Time{}
	v.mu.Unlock()
	told := map[string]bool{}
	leave := mirror.Follow(&store.Follower{
		See:  func(e store.Entry) { told[e.Key] = true; v.seeWorker(e) },
		Lost: func() { clear(told) },
		All:  func() { v.onlyWorkers(told) },
	})
	r.mirror = mirror
	r.end = func() {
		leave()
		mirror.Close()
	}
	r.rest = time.AfterFunc(rollLasts, r.tire)
}

// seeWorker takes an entry of the roll.
func (v *View) seeWorker(e store.Entry) {
	name, found := strings.CutPrefix(e.Key, store.WorkerKey(""))
	if !found {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.take("worker", name, e)
	wait.Signal(v.change)
}

// onlyWorkers drops the workers that are not told of any more. Each may have
// lived until the last of them went.
func (v *View) onlyWorkers(told map[string]bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.named()
	for name := range v.workers {
		if !told[store.WorkerKey(name)] {
			v.take("worker", name, store.Entry{})
		}
	}
	after := v.named()
	for p := range before {
		if !after[p] && v.left.After(v.lost[p]) {
			v.lost[p] = v.left
		}
	}
	wait.Signal(v.change)
}

// tire ends the watch if nobody has asked for a while.
func (r *roll) tire() {
	r.mu.Lock()
	if since := time.Since(r.asked); r.mirror == nil || since < rollLasts {
		if r.mirror != nil {
			r.rest.Reset(rollLasts - since)
		}
		r.mu.Unlock()
		return
	}
	end := r.put()
	r.mu.Unlock()
	end() // the server may be away, and a question is not to wait for that
	r.ending.Done()
}

// put takes the watch out of use.
func (r *roll) put() (end func()) {
	r.ending.Add(1)
	r.mirror = nil
	return r.end
}

// close ends the roll and waits for it.
func (r *roll) close() {
	r.mu.Lock()
	r.shut = true
	if r.mirror != nil {
		r.rest.Stop()
		end := r.put()
		end()
		r.ending.Done()
	}
	r.mu.Unlock()
	r.ending.Wait()
}

// mayBury reports whether it is this one's turn to look for keys of workers that
// have not lived for long: of n, one in two times.
func (v *View) mayBury() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.roll == nil || rand.IntN(max(1, 2*len(v.workers)-2)) == 0 //nolint:gosec // whose turn it is, no secret
}

// Bury takes away the keys of workers that have not lived for long, so that
// nobody else takes them for one. Where a view would have to look for that, one
// of the fleet does at a time.
func (v *View) Bury(ctx context.Context, kv jetstream.KeyValue) error {
	if !v.mayBury() {
		return nil
	}
	v.ask()
	v.mu.Lock()
	ghosts := map[string]uint64{}
	for name, w := range v.workers {
		if time.Since(w.at) > 4*presenceTTL {
			ghosts[name] = w.rev
		}
	}
	v.mu.Unlock()
	var failed []error
	for name, rev := range ghosts {
		if err := kv.Purge(ctx, store.WorkerKey(name), jetstream.LastRevision(rev), jetstream.PurgeTTL(time.Minute)); err != nil {
			failed = append(failed, fmt.Errorf("presence of %s, who is gone: %w", name, err))
		}
	}
	return errors.Join(failed...)
}
