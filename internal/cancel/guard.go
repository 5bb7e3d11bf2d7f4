package cancel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// leaseLasts is how long a worker may begin calls by what it last knew for
	// certain. Whoever takes an order waits so long for a worker that does not
	// say that it has seen it: one that is frozen, cut off or dead.
	leaseLasts = 2 * time.Second
	// skew is what the clocks of two servers that lead the bucket one after
	// the other may differ by.
	skew = 500 * time.Millisecond
	// seenWithin is after how long a watch that has not told of a beat that is
	// stored is dead, unless the one before was opened anew in vain.
	seenWithin = 500 * time.Millisecond
	// beatsLast is how long a worker's beat is stored.
	beatsLast = 10 * time.Second
)

// ErrCancelled says that a call must not begin.
var ErrCancelled = errors.New("the request is cancelled")

// Guard is what a worker asks right before a call begins. It knows that what
// it sees of the marks is no older than two seconds: it writes a beat, and
// whatever was stored before that has been seen once the beat itself has. A
// worker that calls writes a beat a second, an idle one none.
type Guard struct {
	*View
	name string

	mu      sync.Mutex
	begun   map[*Call]struct{} // judged, and perhaps not yet on the wire
	since   time.Time          // of the lease; zero: there is none
	beating chan struct{}      // closed when the beat under way has ended
	failed  error              // how it ended
	gone    bool               // it has left
	telling sync.WaitGroup     // none is added any more then

	patience time.Duration // the beat's alone: how long the watch may take to tell of it
}

// NewGuard makes the guard of a worker with this name.
func NewGuard(v *View, name string) *Guard {
	g := &Guard{View: v, name: name, begun: map[*Call]struct{}{}, patience: seenWithin}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tell = g.tell
	return g
}

// Call is a call that may begin.
type Call struct {
	request Request
	written chan struct{} // made by whoever waits for it, which hardly anybody does
	guard   *Guard
}

// Written says that the call is on the wire, or will never be. It may be said
// again.
func (c *Call) Written() {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	if _, begun := c.guard.begun[c]; !begun {
		return
	}
	if delete(c.guard.begun, c); c.written != nil {
		close(c.written)
	}
}

// tell says that a mark was seen, once the calls of its agent that were judged
// by the one before are on the wire.
func (g *Guard) tell(provider, agent, subject string) {
	say := func() { _ = g.js.Conn().Publish(subject, []byte(g.name)) } // unheard, the lease runs out
	g.mu.Lock()
	gone := g.gone // nobody waits for it then
	var before []*Call
	for c := range g.begun {
		if !gone && c.request.Provider == provider && c.request.Agent == agent {
			if before = append(before, c); c.written == nil {
				c.written = make(chan struct{})
			}
		}
	}
	if len(before) > 0 {
		g.telling.Go(func() { sayAfter(before, say) })
	}
	g.mu.Unlock()
	if len(before) == 0 && !gone {
		say()
	}
}

// sayAfter says it once all of these calls are on the wire.
func sayAfter(before []*Call, say func()) {
	late := time.NewTimer(leaseLasts)
	defer late.Stop()
	for _, c := range before {
		select {
		case <-c.written:
		case <-late.C:
			return // the lease is over for whoever waits, too
		}
	}
	say()
}

// Warm renews the lease beside whatever comes before a call.
func (g *Guard) Warm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left(time.Now()) < leaseLasts/2 {
		g.beat()
	}
}

// left is what is left of the lease. A machine that was suspended is told by
// the wall clock, a clock that was set by the monotonic one.
func (g *Guard) left(now time.Time) time.Duration {
	if g.since.IsZero() {
		return 0
	}
	return leaseLeft(now.Sub(g.since), now.Round(0).Sub(g.since.Round(0)))
}

// leaseLeft is what is left when so much has passed by the monotonic clock, and
// by the wall clock.
func leaseLeft(passed, wall time.Duration) time.Duration {
	if wall < 0 {
		return 0
	}
	return leaseLasts - max(passed, wall)
}

// beat begins a beat if none is under way. The lock is held.
func (g *Guard) beat() chan struct{} {
	if g.beating == nil {
		done := make(chan struct{})
		g.beating = done
		go func() {
			from := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), leaseLasts)
			defer cancel()
			err := g.beatOnce(ctx)
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.beating, g.failed = nil, err; err == nil {
				g.since = from
			}
			close(done)
		}()
	}
	return g.beating
}

func (g *Guard) beatOnce(ctx context.Context) error {
	m := nats.NewMsg("$KV." + wire.BucketProviders + "." + beatPrefix + g.name)
	ack, err := g.js.PublishMsg(ctx, m, jetstream.WithMsgTTL(beatsLast))
	if err != nil {
		return fmt.Errorf("beat: %w", err)
	}
	stored := time.Now()
	soon, cancel := context.WithTimeout(ctx, g.patience)
	defer cancel()
	err = g.until(soon, ack.Sequence)
	late := time.Since(stored) >= seenWithin
	switch {
	case err == nil && late: // the server is slow, and it is as well that we waited
		return nil
	case err == nil:
		g.patience = seenWithin
		return nil
	case !late: // the word itself has taken the time
		return err
	}
	// A server has taken the watch with it, and nobody tells. Or it is slow to
	// tell: then a new watch is but one more to serve, and the next beat waits.
	g.patience = min(2*g.patience, leaseLasts)
	g.reopen()
	return g.until(ctx, ack.Sequence)
}

// sure waits until what is seen of the marks is certain.
func (g *Guard) sure(ctx context.Context) error {
	for {
		g.mu.Lock()
		left, failed := g.left(time.Now()), g.failed
		if left > 0 {
			if left < leaseLasts/2 {
				g.beat()
			}
			g.mu.Unlock()
			return nil
		}
		done := g.beat()
		g.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), failed)
		}
		g.mu.Lock()
		failed = g.failed
		g.mu.Unlock()
		if failed != nil {
			return failed
		}
	}
}

// MayCall says whether a call of a request may begin now: the call, of which
// it is to be told when it is written; or ErrCancelled, or what keeps it from
// knowing.
func (g *Guard) MayCall(ctx context.Context, r Request) (*Call, error) {
	if err := g.sure(ctx); err != nil {
		return nil, err
	}
	c := &Call{request: r, guard: g}
	g.mu.Lock()
	g.begun[c] = struct{}{} // before it is judged: a mark that comes now waits for it
	g.mu.Unlock()
	err := error(nil)
	switch g.Judge(r) {
	case Cancelled:
		err = ErrCancelled
	case Look:
		var ended bool
		if ended, err = g.Ended(ctx, r.Identity); ended {
			err = ErrCancelled
		}
	case Goes:
	}
	if err != nil {
		c.Written()
		return nil, err
	}
	return c, nil
}

// Ended asks the stream's leader whether a final answer stands.
func (v *View) Ended(ctx context.Context, i fetchworker.Identity) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request := fmt.Appendf(nil, `{"last_by_subj":%q}`, fetchworker.ResultSubject(i))
	m, err := v.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+fetchworker.StreamResults, request)
	if err != nil {
		return false, fmt.Errorf("answer of %s: %w", i, err)
	}
	var reply struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Headers []byte `json:"hdrs"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return false, fmt.Errorf("answer of %s: %w", i, err)
	}
	if reply.Error != nil {
		if reply.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return false, nil
		}
		return false, fmt.Errorf("answer of %s: %w", i, reply.Error)
	}
	h, err := nats.DecodeHeadersMsg(reply.Message.Headers)
	if err != nil {
		return false, fmt.Errorf("answer of %s: %w", i, err)
	}
	return h.Get(wire.HeaderFinal) == "true", nil
}

// Leave says that this worker calls no more, so that nobody waits for it.
func (g *Guard) Leave(ctx context.Context) error {
	g.mu.Lock()
	g.gone, g.since = true, time.Time{}
	beating := g.beating
	g.mu.Unlock()
	if beating != nil {
		<-beating
	}
	g.telling.Wait()
	err := g.kv.Purge(ctx, beatPrefix+g.name, jetstream.PurgeTTL(time.Minute))
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}
