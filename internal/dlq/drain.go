package dlq

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// A letter that waits for a gate, or for room in the replay stream, needs no
// look until there is one: its nak is long, and when the gate has opened or
// there is room its provider's letters are read, oldest first, and released as
// far as there is room. So a crowd costs the server nothing while it waits,
// and stands before nobody else's letter.
//
// One replayer at a time reads for a provider, by a lease in the shared state.
// It is for economy: two that read at once release a letter twice, as a crash
// in the middle of a release does.

const (
	// readsAPass bounds how many letters of one provider are read before
	// another's turn.
	readsAPass = 512
	// restAfterAll is how long a provider rests whose letters were all read and
	// none could go.
	restAfterAll = 2 * time.Second
	// restWhileShut is restAfterAll where open circuits hold all: that one closes
	// is seen at once, and a crowd that is read again and again costs a core.
	restWhileShut = 20 * time.Second
	leaseLasts    = 6 * time.Second
)

// drain releases what waits, until ctx ends.
func (r *Replayer) drain(ctx context.Context) {
	kv, err := r.js.KeyValue(ctx, wire.BucketProviders)
	for said := false; err != nil; kv, err = r.js.KeyValue(ctx, wire.BucketProviders) { // an election, perhaps
		if !said {
			said = true
			r.logger.Warn("no drain yet: letters that wait go at their next look", zap.Error(err))
		}
		if wait.Between(ctx, time.Second, 2*time.Second) != nil {
			return
		}
	}
	name := rand.Text()
	var crowds crowds
	next := resting
	for r.rest(ctx, next, crowds.looked) == nil {
		next = resting
		if time.Since(crowds.looked) >= crowdLooks {
			crowds.looked = time.Now()
			crowds.behind = r.behind(ctx, &crowds)
		}
		behind := crowds.behind
		if behind {
			for _, provider := range r.gates.board.Providers() {
				r.drains.mark(provider)
			}
		}
		for provider, d := range r.drains.marked() {
			now := r.now()
			gate := r.gates.of(provider, now)
			if d.shut != "" && d.shut != gate.shut() { // one has closed, or another opened
				d.shut, d.rest, d.next, d.idle = "", time.Time{}, 1, true
			}
			if now.Before(d.rest) || gate.held != "" {
				continue
			}
			if now.After(d.leased.Add(-leaseLasts / 2)) {
				until, err := lease(ctx, kv, provider, name, now)
				if err != nil || until.IsZero() {
					d.rest = now.Add(time.Second)
					if err != nil && ctx.Err() == nil {
						r.logger.Debug("drain", zap.String("provider", provider), zap.Error(err))
					}
					continue
				}
				d.leased = until
			}
			pace, err := r.drainOne(ctx, provider, d, behind)
			next = max(next, pace)
			if err != nil && ctx.Err() == nil {
				r.logger.Warn("drain", zap.String("provider", provider), zap.Error(err))
				d.rest = now.Add(time.Second)
			}
			if soon := r.now().Add(restBehind); behind && d.rest.After(soon) {
				d.rest = soon
			}
		}
	}
}

const (
	// crowdLooks is how often it is looked whether more letters wait to be met
	// than a replayer meets in no time, which are crowd.
	crowdLooks = time.Second
	crowd      = 2000
	// restBehind is restAfterAll while they do: a retry of a second may be among
	// them.
	restBehind = 300 * time.Millisecond
	// wholeEach is how often the consumer itself is looked at while no letter is there.
	wholeEach = 10 * time.Second
)

// crowds is what is known of letters that nobody has met.
type crowds struct {
	looked time.Time // the last time
	behind bool      // there were many
	none   time.Time // when there was none at all, and no copy that could know less; zero: there were some
}

// rest is between two passes: a while, or where nobody is marked until somebody
// is or it is time to look for a crowd.
func (r *Replayer) rest(ctx context.Context, next pace, looked time.Time) error {
	if next != resting || len(r.drains.marked()) > 0 {
		return next.pause(ctx)
	}
	due := time.NewTimer(time.Until(looked.Add(crowdLooks)) + wait.Jitter(80*time.Millisecond, 120*time.Millisecond))
	defer due.Stop()
	select {
	case <-due.C:
	case <-r.drains.woken:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// behind reports whether a crowd of letters waits to be met for the first time:
// after a while without a replayer. Each is met in the order it was stored,
// which takes half a minute for 200,000; so meanwhile every provider's letters
// are looked for by themselves, and none stands behind another's crowd.
func (r *Replayer) behind(ctx context.Context, seen *crowds) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if !seen.none.IsZero() && time.Since(seen.none) < wholeEach {
		// An error says only that it is not known.
		if empty, err := wire.Empty(ctx, r.js.Conn(), wire.StreamDLQ); empty && err == nil {
			return false
		}
	}
	seen.none = time.Time{}
	began := time.Now()
	c, err := r.js.Consumer(ctx, wire.StreamDLQ, r.config.Consumer)
	if err != nil {
		return false
	}
	info := c.CachedInfo()
	r.rooms.saw(info)
	if none(info) {
		seen.none = began
	}
	return info.NumPending > crowd
}

// none reports whether there is no letter at all, as one says who cannot know
// less than another copy.
func none(info *jetstream.ConsumerInfo) bool {
	return wire.Alone(info.Cluster) && info.NumPending == 0 && info.NumAckPending == 0
}

// pace is how soon there is something to be done again.
type pace int

const (
	resting pace = iota
	full         // there is no room, and will be
	busy         // letters are left that could go
)

// pause is between two passes. Where letters are left that could go it is only
// for others' turn: a crowd that waited a tenth of a second after each five
// hundred took half as long again.
func (p pace) pause(ctx context.Context) error {
	switch p {
	case busy:
		return wait.Between(ctx, time.Millisecond, 3*time.Millisecond)
	case full:
		return wait.Between(ctx, shortestFull/2, shortestFull)
	case resting:
	}
	return wait.Between(ctx, 80*time.Millisecond, 120*time.Millisecond)
}

// drainOne reads on and releases as far as there is room.
func (r *Replayer) drainOne(ctx context.Context, provider string, d *drain, behind bool) (pace, error) {
	out := &outgoing{r: r, turn: make(chan struct{}, 1)}
	defer out.wait()
	if d.next == 1 {
		r.drains.begins(d)
		d.shut = r.gates.of(provider, r.now()).shut()
	}
	next := resting
	for read := 0; read < readsAPass; {
		left, err := r.rooms.left(ctx, provider)
		if err != nil {
			return resting, err
		}
		if left == 0 {
			return full, nil // what is read now would be read again
		}
		page, err := r.read(ctx, "fetch.dlq."+provider+".>", &d.place, min(left, drainsTogether))
		if err != nil {
			return resting, fmt.Errorf("read %s: %w", provider, err)
		}
		if len(page) == 0 {
			d.rest = r.now().Add(restAfterAll)
			if d.idle && d.shut != "" {
				d.rest = r.now().Add(restWhileShut)
			}
			if d.idle && !behind { // else it is marked again at once, without its rest
				r.drains.done(provider) // whoever waits still is met again
			}
			d.next, d.idle = 1, true
			return resting, nil
		}
		read += len(page)
		going, room, err := r.due(ctx, provider, d, page)
		if len(going) > 0 {
			next = busy
			out.send(ctx, going)
		}
		switch {
		case err != nil:
			return resting, err
		case !room:
			return full, nil
		}
	}
	return next, nil
}

// due takes out of letters that were read those that may go, each with its claim
// and its room. Without room the one that it was for is the next.
func (r *Replayer) due(ctx context.Context, provider string, d *drain, page []record.Raw) (going []*held, room bool, err error) {
	for _, raw := range page {
		l := &held{Letter: Read(raw.Subject, raw.Header, raw.Data), sequence: raw.Sequence, stored: raw.Time}
		if v := decide(l.Letter, r.facts(l, r.now())); v.act != actRelease {
			d.next = raw.Sequence + 1
			if v.act == actHold && !v.watch && l.Class == wire.ClassThrottled {
				d.idle = false // it only lets others go first
			}
			if v.act == actHold && v.watch && v.reason != fetchworker.ReasonCircuitOpen {
				d.shut = "" // it waits for something else
			}
			continue
		}
		room, err := r.rooms.take(ctx, provider)
		if err != nil {
			return going, false, err
		}
		d.idle = false
		if !room {
			return going, false, nil // this one is the next
		}
		d.next = raw.Sequence + 1
		if r.drains.claim(raw.Sequence) {
			going = append(going, l)
		}
	}
	return going, true, nil
}

// drainsTogether is how many letters of a drain are read, sent back and taken out
// together at the most. One by one each took a turn of everybody's: replayer,
// server and back, three times.
const drainsTogether = 16

// outgoing are the letters of a pass that are on their way.
type outgoing struct {
	r    *Replayer
	turn chan struct{} // held while letters are taken out
	all  sync.WaitGroup
}

// send releases letters that were read and not pulled. If a replayer holds one at
// this moment, its acknowledgement finds nothing. It returns when they are written:
// the next may be while these are taken out.
func (o *outgoing) send(ctx context.Context, letters []*held) {
	r := o.r
	entries := make([]record.Entry, 0, len(letters))
	for _, l := range letters {
		entries = append(entries, record.Entry{Slot: l.ReplaySlot(), Message: l.Replayed()})
	}
	written := make([]*held, 0, len(letters))
	sequences := make([]uint64, 0, len(letters))
	for i, err := range r.log.PutAll(ctx, entries) {
		l := letters[i]
		if err != nil {
			r.stays(ctx, l, err)
			continue
		}
		r.did(didRelease, l.Provider)
		written, sequences = append(written, l), append(sequences, l.sequence)
	}
	o.turn <- struct{}{}
	o.all.Go(func() {
		defer func() { <-o.turn }()
		for i, err := range r.log.TakeOutAll(ctx, "ack", wire.StreamDLQ, r.config.Consumer, sequences, r.rooms.handedOut) {
			if err != nil {
				r.stays(ctx, written[i], err)
				continue
			}
			r.drains.unclaim(sequences[i])
		}
	})
}

// wait waits until all are out.
func (o *outgoing) wait() { o.all.Wait() }

// stays tells of a letter that could not be released, or not be taken out: it is
// met again.
func (r *Replayer) stays(ctx context.Context, l *held, err error) {
	r.drains.unclaim(l.sequence)
	if ctx.Err() == nil {
		r.logger.Warn("letter put off", zap.Stringer("request", l.Identity), zap.Error(err))
	}
}

// release sends a letter back to work that was pulled, if the replay stream
// has room for its provider.
func (r *Replayer) release(ctx context.Context, l *held) (time.Duration, error) {
	if !r.drains.claim(l.sequence) {
		return time.Second, nil // it is on its way
	}
	defer r.drains.unclaim(l.sequence)
	room, err := r.rooms.take(ctx, l.Provider)
	if err != nil {
		return 0, err
	}
	if !room {
		r.drains.rouse(l.Provider)
		return wait.Jitter(shortestNoRoom, longestNoRoom), nil
	}
	// A crash before this leaves the letter as it was. One after it leaves it
	// in both places: it is released again, and an equal letter replaces
	// itself, or finds that the worker has stored its answer or next letter.
	if _, err := r.log.Put(ctx, l.ReplaySlot(), l.Replayed()); err != nil {
		return 0, err
	}
	r.did(didRelease, l.Provider)
	r.logger.Debug("released", zap.Stringer("request", l.Identity), zap.String("class", string(l.Class)), zap.Int("failures", l.Failures))
	return 0, l.ack(ctx, r.log)
}

// A due letter without room is read when there is some; this is for where
// nobody reads.
const (
	shortestNoRoom = 40 * time.Second
	longestNoRoom  = 80 * time.Second
)
