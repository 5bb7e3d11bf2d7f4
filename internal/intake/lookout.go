package intake

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// lookout looks into the streams for what waits in shards: at the start, after
// a reconnect, and about once a second while some shard rests or is about to.
// What a worker did not hear of is found so: it was published while the worker
// was away or not yet listening, or handed back by one that is gone.
type lookout struct {
	js     jetstream.JetStream
	queues []*waitroom
	shards map[place]*Shard
	needed func(time.Time) bool
	failed func(error)
	poke   chan struct{}             // look now
	looked atomic.Pointer[time.Time] // when the last look that told all began; nil: none did
	mute   atomic.Bool               // an earlier version made the streams: they do not tell what comes
}

type place struct {
	stream, provider string
	lane             fetchworker.Lane // of requests only
	index            int
}

func placeOf(s *Shard) place { return place{s.stream, s.provider, s.Lane, s.Index} }

// waitroom is one of the streams as last seen.
type waitroom struct {
	name    string
	stream  jetstream.Stream // nil until it is first seen
	seen    seen
	whole   time.Time // when its whole state was last seen
	alone   bool      // one server keeps it, as it was then
	waiting []*Shard  // that hold something
}

type seen struct {
	made           time.Time
	last, messages uint64
}

const (
	lookEach = time.Second
	lookTime = 2 * time.Second
	// lookLasts is how long a shard may trust that it would have been seen.
	lookLasts = 5 * time.Second
	// wholeEach is how often a stream's whole state is looked at while it is empty.
	wholeEach = 10 * time.Second
)

func newLookout(js jetstream.JetStream, shards []*Shard) *lookout {
	o := &lookout{
		js: js, shards: make(map[place]*Shard, len(shards)), poke: make(chan struct{}, 1),
		queues: []*waitroom{{name: fetchworker.StreamRequests}, {name: wire.StreamReplay}},
	}
	for _, s := range shards {
		o.shards[placeOf(s)] = s
	}
	return o
}

// run looks until ctx ends.
func (o *lookout) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-o.poke:
			for _, q := range o.queues {
				q.whole = time.Time{} // it may be another server
			}
		}
		if now := time.Now(); o.mute.Load() || o.needed(now) {
			if err := o.look(ctx); err == nil {
				o.looked.Store(&now)
			} else if ctx.Err() == nil {
				o.failed(err)
			}
		}
		timer.Reset(wait.Jitter(lookEach*9/10, lookEach*11/10))
	}
}

// again says that what was seen may be old.
func (o *lookout) again() { wait.Signal(o.poke) }

// covers reports whether everything is certain to be seen or heard of by those
// who have listened since a moment.
func (o *lookout) covers(since time.Time) bool {
	looked := o.looked.Load()
	return looked != nil && looked.After(since) && time.Since(*looked) < lookLasts
}

// look stirs the shards that something waits in. It costs a request for each
// stream, a small one while that is empty, and a list of subjects where something
// has changed.
func (o *lookout) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if o.empty(ctx) {
		return nil
	}
	mute := false
	for _, q := range o.queues {
		tells, err := q.look(ctx, o)
		if err != nil {
			q.stream = nil
			return fmt.Errorf("look into %s: %w", q.name, err)
		}
		mute = mute || !tells
		for _, s := range q.waiting {
			s.Stir()
		}
	}
	o.mute.Store(mute)
	return nil
}

// empty reports whether all streams, which were, are so still. What their
// configuration tells is not asked again for a while.
func (o *lookout) empty(ctx context.Context) bool {
	names := make([]string, 0, 2)
	for _, q := range o.queues {
		if !q.alone || q.seen.messages > 0 || time.Since(q.whole) >= wholeEach {
			return false
		}
		names = append(names, q.name)
	}
	// An error says only that it is not known: the whole state tells.
	empty, err := wire.AllEmpty(ctx, o.js.Conn(), names...)
	return empty && err == nil
}

func (q *waitroom) look(ctx context.Context, o *lookout) (tells bool, err error) {
	if q.stream == nil {
		if q.stream, err = o.js.Stream(ctx, q.name); err != nil {
			return false, err
		}
	}
	q.alone = false
	began := time.Now()
	info, err := q.stream.Info(ctx)
	if err != nil {
		return false, err
	}
	tells = info.Config.RePublish != nil && strings.HasPrefix(info.Config.RePublish.Destination, wire.Queued(""))
	q.whole, q.alone = began, wire.Alone(info.Cluster)
	now := seen{info.Created, info.State.LastSeq, info.State.Msgs}
	switch {
	case now.messages == 0:
		q.seen, q.waiting = now, nil
		return tells, nil
	case now == q.seen:
		return tells, nil
	}
	listed, err := wire.List(ctx, o.js.Conn(), q.name, ">")
	if err != nil {
		return false, err
	}
	found := map[*Shard]bool{}
	for subject := range listed.Subjects {
		a, err := wire.ParseSubject(subject)
		if err != nil {
			continue // no request: the sweep drops it
		}
		at := place{q.name, a.Provider, a.Lane, a.Shard}
		if q.name == wire.StreamReplay {
			at.lane, at.index = "", -1
		}
		if s := o.shards[at]; s != nil {
			found[s] = true
		}
	}
	q.waiting = q.waiting[:0]
	for s := range found {
		q.waiting = append(q.waiting, s)
	}
	// What came between the two is in the list, and will be listed again.
	q.seen = now
	return tells, nil
}
