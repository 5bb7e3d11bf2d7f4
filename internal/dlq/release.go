package dlq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// expire answers a letter whose deadline has passed.
func (r *Replayer) expire(ctx context.Context, l *held) (time.Duration, error) {
	a := l.Failed(fetchworker.CodeDeadlineExceeded, "the deadline passed while the request waited for its next attempt")
	// A crash after this leaves the letter, and the next one to meet it finds
	// the answer and sends the copy again.
	_, stored, err := r.answers.Put(ctx, a, l.ReplyTo())
	if err != nil {
		return 0, err
	}
	r.did(didExpire, l.Provider)
	r.ended(l.Letter, stored)
	return 0, l.ack(ctx, r.log)
}

// refuse answers a letter of a retired provider, as a new request for it is.
func (r *Replayer) refuse(ctx context.Context, l *held) (time.Duration, error) {
	served, err := r.rooms.served(ctx, l.Provider)
	if err != nil {
		return 0, err
	}
	if served { // a worker that brings it back is about to say so
		return r.waiters.delay(time.Second, 2*time.Second), nil
	}
	if l.Generation > 1 {
		// A person began this life: it does not end for good for a reason that
		// passes, but comes back to them.
		l.Class, l.Code, l.Error = wire.ClassPermanent, fetchworker.CodeProviderNotConfigured, retiredMeanwhile(l.Provider)
		return r.exhaust(ctx, l)
	}
	a := l.Failed(fetchworker.CodeProviderNotConfigured, retiredMeanwhile(l.Provider))
	_, stored, err := r.answers.Put(ctx, a, l.ReplyTo())
	if err != nil {
		return 0, err
	}
	r.did(didRefuse, l.Provider)
	r.ended(l.Letter, stored)
	return 0, l.ack(ctx, r.log)
}

func retiredMeanwhile(provider string) string {
	return provider + " was retired while the request waited"
}

// tell stores a waiting answer for a letter that is held, unless a higher
// answer stands. Nothing depends on it: a crash costs the agent some seconds
// until it knows.
func (r *Replayer) tell(ctx context.Context, l *held) (time.Duration, error) {
	stands, err := r.answers.Read(ctx, l.Identity)
	if err != nil {
		return 0, err
	}
	now := r.now()
	f := r.facts(l, now)
	f.stands = stands
	v := decide(l.Letter, f)
	switch v.act {
	case actDone:
		return 0, r.finish(ctx, l, stands)
	case actHold:
	case actRelease, actExpire, actRefuse, actReview, actCancel:
		return time.Millisecond, nil // its time has come meanwhile
	}
	switch told, saidSo := tells(stands, l.Generation, v); {
	case v.reason == "":
	case saidSo:
		r.waiters.tell(l.sequence, v.reason, told, now)
	default:
		waiting := l.Waiting(v.reason, v.detail(l.Error), v.retryAt)
		waiting.Time = now // the server's: who spoke last is seen by it
		_, stored, err := r.answers.Replace(ctx, stands, waiting, l.ReplyTo())
		if err != nil {
			return 0, err
		}
		if stored {
			r.did(didTell, l.Provider)
		}
		r.waiters.tell(l.sequence, v.reason, v.retryAt, now)
	}
	return r.wait(v, now), nil
}

// tells reports whether what stands says already why a letter waits, and until when to
// within a few seconds: a circuit's time moves with each probe, and each of ten
// thousand answers that its worker had just written was written anew for a second.
func tells(stands answer.Standing, generation int, v verdict) (until time.Time, saidSo bool) {
	if stands.Status != fetchworker.StatusWaiting || stands.Generation != generation || stands.Problem.Reason() != v.reason {
		return time.Time{}, false
	}
	until = stands.Problem.RetryAt
	return until, !apart(until.Unix(), v.retryAt)
}

// finish ends a letter whose request has its final answer already: the copy
// may have been lost with whoever stored it.
func (r *Replayer) finish(ctx context.Context, l *held, stands answer.Standing) error {
	if stands.Final {
		if err := r.answers.Copy(stands, l.ReplyTo()); err != nil {
			return err
		}
	}
	r.did(didFinish, l.Provider)
	return l.ack(ctx, r.log)
}

// rooms knows how many letters each provider's replay queue can still take:
// no more wait there than twice what its consumer hands out. What waits there
// cannot be reordered, held or answered any more, and a worker may be slow.
//
// Several replayers share it: each takes of what is left its part, by how many
// pulls wait for letters.
type rooms struct {
	js       jetstream.JetStream
	letters  string // the DLQ's consumer
	consumer func(provider string) string

	handed atomic.Uint64 // up to which sequence the DLQ's consumer has handed letters out, as far as is known

	mu      sync.Mutex // guards the map and the pulls only
	all     map[string]*room
	pulls   [2]int    // that waited for letters at a time, the most: lately, and in the while before
	counted time.Time // since when lately is
}

type room struct {
	mu     sync.Mutex    // held while the server is asked, so that it is asked once
	looked time.Time     // when the server was asked
	served bool          // the provider's consumer exists
	left   int           // for us to take until the next look
	full   time.Duration // how long it is believed that there is none
}

const (
	// roomLasts is how long a count is believed while there is room.
	roomLasts = time.Second
	// shortestFull and longestFull are how long it is believed that there is
	// none: the shorter, the faster there is some again. A fast worker would be
	// idle for most of the longest.
	shortestFull = 20 * time.Millisecond
	longestFull  = 100 * time.Millisecond
)

func newRooms(js jetstream.JetStream, letters string, consumer func(string) string) *rooms {
	return &rooms{js: js, letters: letters, consumer: consumer, all: map[string]*room{}}
}

func (r *rooms) of(provider string) *room {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[provider] == nil {
		r.all[provider] = &room{}
	}
	return r.all[provider]
}

// take takes room for one letter, if there is any.
func (r *rooms) take(ctx context.Context, provider string) (bool, error) {
	room := r.of(provider)
	room.mu.Lock()
	defer room.mu.Unlock()
	if err := room.known(ctx, r, provider); err != nil || room.left <= 0 {
		return false, err
	}
	room.left--
	return true, nil
}

// left is how many letters could be taken now.
func (r *rooms) left(ctx context.Context, provider string) (int, error) {
	room := r.of(provider)
	room.mu.Lock()
	defer room.mu.Unlock()
	if err := room.known(ctx, r, provider); err != nil {
		return 0, err
	}
	return max(room.left, 0), nil
}

// known asks the server if what is known is too old.
func (r *room) known(ctx context.Context, rooms *rooms, provider string) error {
	age := time.Since(r.looked)
	if age < roomLasts && (r.left > 0 || age < r.full) {
		return nil
	}
	return r.look(ctx, rooms, provider)
}

// pullsCounted is how long a count of waiting pulls is held against a smaller
// one. When many letters come at once nobody's pull waits: then each replayer
// would take itself for the only one.
const pullsCounted = 5 * time.Second

// saw takes note of how it stands with the DLQ's consumer.
func (r *rooms) saw(info *jetstream.ConsumerInfo) {
	r.handed.Store(info.Delivered.Stream)
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.counted) >= pullsCounted {
		r.pulls, r.counted = [2]int{0, r.pulls[0]}, now
	}
	r.pulls[0] = max(r.pulls[0], info.NumWaiting)
}

// sharers are the replayers that release letters, this one included.
func (r *rooms) sharers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.pulls[0], r.pulls[1], 1)
}

// handedOut reports whether the DLQ's consumer is known to have handed a letter
// out. One that is made anew begins anew: that is seen at the next look.
func (r *rooms) handedOut(sequence uint64) bool { return sequence <= r.handed.Load() }

// served reports whether a provider's consumer exists.
func (r *rooms) served(ctx context.Context, provider string) (bool, error) {
	room := r.of(provider)
	room.mu.Lock()
	defer room.mu.Unlock()
	if time.Since(room.looked) >= longestFull {
		if err := room.look(ctx, r, provider); err != nil {
			return false, err
		}
	}
	return room.served, nil
}

// restingRoom is the room of a provider that has no consumer at the moment:
// twice the least that one hands out. Its workers make it when something comes.
const restingRoom = 32

// look asks the server.
func (r *room) look(ctx context.Context, rooms *rooms, provider string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if letters, err := rooms.js.Consumer(ctx, wire.StreamDLQ, rooms.letters); err == nil {
		rooms.saw(letters.CachedInfo())
	}
	sharers := rooms.sharers()
	name := rooms.consumer(provider)
	c, err := rooms.js.Consumer(ctx, wire.StreamReplay, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		stored, err := rooms.stored(ctx, provider)
		if err != nil {
			return err
		}
		r.served = false
		r.has((max(restingRoom-stored, 0)+sharers-1)/sharers, restingRoom/sharers)
		return nil
	}
	if err != nil {
		return fmt.Errorf("room in %s: %w", name, err)
	}
	info := c.CachedInfo()
	r.served = true
	limit := 2 * info.Config.MaxAckPending
	if limit <= 0 { // it hands out any number
		limit = 2000
	}
	left := limit - info.NumAckPending - int(min(info.NumPending, 1<<30))
	r.has((max(left, 0)+sharers-1)/sharers, limit/sharers)
	return nil
}

// has notes how many letters can be taken, of so many at the most.
func (r *room) has(left, most int) {
	r.left, r.looked = max(left, 0), time.Now()
	r.full = min(2*r.full, longestFull)
	if 8*r.left >= most {
		r.full = shortestFull
	}
}

// stored is how many letters of a provider have been released and wait.
func (r *rooms) stored(ctx context.Context, provider string) (int, error) {
	stream, err := r.js.Stream(ctx, wire.StreamReplay)
	if err != nil {
		return 0, fmt.Errorf("room in %s: %w", wire.StreamReplay, err)
	}
	if stream.CachedInfo().State.Msgs == 0 {
		return 0, nil
	}
	listed, err := wire.List(ctx, r.js.Conn(), wire.StreamReplay, "fetch.replay."+provider+".>")
	if err != nil {
		return 0, fmt.Errorf("room in %s: %w", wire.StreamReplay, err)
	}
	return len(listed.Subjects), nil // one each
}
