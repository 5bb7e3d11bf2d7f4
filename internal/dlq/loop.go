package dlq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fetchworker/internal/answer"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/cancel"
	"fetchworker/internal/record"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Config is what a replayer is made of.
type Config struct {
	Consumer string // the DLQ's one durable consumer, shared by all replayers
	// ReplayConsumer names a provider's consumer on the replay stream.
	ReplayConsumer func(provider string) string

	// Heal makes the consumer again if somebody deleted it; nil: never.
	Heal func(context.Context) error

	Cancels *cancel.View // what agents have cancelled; nil: nothing ever is

	// Failed is told of each request that a replayer ends without what was
	// asked for; nil: nobody is. After a crash it may be told of one again.
	Failed func(Letter)

	Retries int           // failures beyond the first that a request may have
	MaxLife time.Duration // of a request

	Logger     *zap.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Tracer     trace.Tracer          // nil: nothing is traced
}

// Replayer is the daemon's loop over the dead letters. It sends those that
// are due back to work, those that are spent to review, answers those whose
// deadline passes, and tells the agents of those that must wait why. Any
// number may run; the consumer gives each letter to one of them at a time.
//
// Its only memory of what is to come is the letters' own headers: the delay
// of a nak is no more than a wake-up, and a replayer may be killed at any
// instant.
type Replayer struct {
	js      jetstream.JetStream
	log     *record.Log
	answers *answer.Store
	gates   *gates
	config  Config
	logger  *zap.Logger

	rooms   *rooms
	drains  *drains
	waiters *waiters
	holding *wait.Heart[*held]
	metrics *metrics

	pulling         atomic.Pointer[error] // how the last pull ended
	acting, telling chan struct{}         // their capacity is how many may be in flight
}

const (
	// pullBatch letters are taken at a time; deciding on one takes
	// microseconds, so none of them waits.
	pullBatch = 256
	// pullLasts is how long a pull waits for letters. A reconnect can lose
	// one, and then nothing comes until it ends.
	pullLasts = 5 * time.Second
	// actsInFlight bounds the letters that are being released, answered or
	// buried. More would only wait longer for their acknowledgements.
	actsInFlight = 64
	// tellsInFlight bounds those whose agents are being told to wait, so that
	// a provider's outage does not take the turns of another's retries.
	tellsInFlight = 16
	// stopGrace is how long a stop waits for what was begun.
	stopGrace = 10 * time.Second
)

// NewReplayer makes a replayer; Run starts it.
func NewReplayer(js jetstream.JetStream, log *record.Log, board *fleet.View, c Config) *Replayer {
	r := &Replayer{
		js: js, log: log, answers: answer.New(log), gates: newGates(board), config: c,
		logger: c.Logger,
		rooms:  newRooms(js, c.Consumer, c.ReplayConsumer), drains: newDrains(),
		waiters: newWaiters(), holding: wait.NewHeart[*held](),
		acting:  make(chan struct{}, actsInFlight),
		telling: make(chan struct{}, tellsInFlight),
	}
	r.metrics = newMetrics(c.Registerer, r.Ready, board.Now)
	return r
}

// Run works until stop ends. Then it pulls no more, hands back what it has
// not begun, finishes what it has, and returns when it holds nothing.
func (r *Replayer) Run(stop context.Context) error {
	consumer, err := r.js.Consumer(stop, wire.StreamDLQ, r.config.Consumer)
	if stop.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("replayer: consumer %s: %w", r.config.Consumer, err)
	}
	// Two contexts, because stopping is not killing.
	working, kill := context.WithCancelCause(context.WithoutCancel(stop))
	defer kill(nil)
	var background, acts sync.WaitGroup
	background.Go(func() { r.holding.Run(working) })
	background.Go(func() { r.probes(stop) })
	background.Go(func() { r.cancels(stop) })
	background.Go(func() { r.drain(stop) })
	background.Go(func() { r.waiters.forget(stop) })

	for stop.Err() == nil {
		err := r.pull(stop, consumer, func(l *held) { r.meet(working, l, &acts) })
		r.pulls(err)
		if err != nil && stop.Err() == nil {
			r.logger.Warn("pull", zap.Error(err))
			if r.config.Heal != nil {
				if err := r.config.Heal(stop); err != nil {
					r.logger.Warn("consumer", zap.Error(err))
				}
			}
			_ = wait.Between(stop, time.Second, 2*time.Second)
		}
	}
	deadline := time.AfterFunc(stopGrace, func() { kill(errStopGrace) })
	acts.Wait()
	deadline.Stop()
	kill(nil)
	background.Wait()
	return nil
}

// now is the server's time, by which letters are due: a machine's own may be
// seconds off, and would release early or answer that a deadline has passed.
func (r *Replayer) now() time.Time { return r.gates.board.Now() }

// pulls notes how the last pull went.
func (r *Replayer) pulls(err error) {
	r.pulling.Store(&err)
}

// Ready is nil while letters can be pulled.
func (r *Replayer) Ready() error {
	if last := r.pulling.Load(); last != nil && *last != nil {
		return fmt.Errorf("dead letters cannot be pulled: %w", *last)
	}
	return nil
}

// errStopGrace is why an act was broken off.
var errStopGrace = errors.New("the replayer has stopped")

// pull takes one batch. Letters are handed over as they come.
func (r *Replayer) pull(stop context.Context, consumer jetstream.Consumer, meet func(*held)) error {
	ctx, cancel := context.WithTimeout(stop, pullLasts)
	defer cancel()
	batch, err := consumer.Fetch(pullBatch, jetstream.FetchContext(ctx))
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		if stop.Err() != nil {
			_ = msg.Nak() // should it be lost, AckWait does the same
			continue
		}
		l, err := newHeld(msg)
		if err != nil {
			// No answer could be stored under what it names.
			r.metrics.dropped.Inc()
			r.logger.Error("dropped a message that is no dead letter", zap.String("subject", msg.Subject()), zap.Error(err))
			_ = msg.Term()
			continue
		}
		r.guard(l, func() { meet(l) })
	}
	if err := batch.Error(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// meet decides on a letter that was delivered and starts what is to be done.
// It never waits, so a letter that is not due holds back none that is.
func (r *Replayer) meet(working context.Context, l *held, acts *sync.WaitGroup) {
	now := r.now()
	v := decide(l.Letter, r.facts(l, now))
	turns, do, later := r.acting, r.release, func() time.Duration { return r.waiters.delay(500*time.Millisecond, time.Second) }
	switch v.act {
	case actHold:
		if v.watch {
			r.drains.mark(l.Provider)
		}
		if !r.waiters.untold(l.sequence, v, now) {
			l.back(r.wait(v, now))
			return
		}
		if rests := l.stored.Add(settle).Sub(now); rests > 0 {
			// Who stored it is about to tell its agent, and may have a stale
			// body to tell; only where a crash came between is it ours.
			l.back(min(r.waiters.settling(rests), r.wait(v, now)))
			return
		}
		turns, do, later = r.telling, r.tell, func() time.Duration { return min(r.waiters.untoldYet(), r.wait(v, now)) }
	case actExpire:
		do = r.expire
	case actRefuse:
		do = r.refuse
	case actReview:
		do = r.exhaust
	case actCancel:
		do = r.end
	case actRelease, actDone:
	}
	select {
	case turns <- struct{}{}:
	default: // all turns are taken; this letter's comes another time
		l.back(later())
		return
	}
	r.holding.Add(l)
	acts.Go(func() {
		defer func() { <-turns }()
		defer r.holding.Remove(l)
		r.guard(l, func() { r.do(working, l, v.act, do) })
	})
}

// do does one thing with a letter, and hands it back if that did not end it.
func (r *Replayer) do(working context.Context, l *held, a act, do func(context.Context, *held) (time.Duration, error)) {
	ctx, ended := r.trace(working, l, a)
	wait, err := do(ctx, l)
	ended(err)
	if err != nil {
		// Whatever was done is in the log, and done again it changes nothing;
		// the letter is met anew.
		r.logger.Warn("letter put off", zap.String("subject", l.msg.Subject()), zap.Uint64("sequence", l.sequence), zap.Error(err))
		wait = r.waiters.delay(time.Second, 2*time.Second)
	}
	if wait > 0 {
		l.back(wait)
	}
}

// guard lets no letter take the replayer along: what panics on one is told and
// counted, and the letter set aside for a while.
func (r *Replayer) guard(l *held, do func()) {
	defer func() {
		if p := recover(); p != nil {
			r.metrics.panics.Inc()
			r.logger.Error("a letter was set aside: it makes the replayer panic", zap.String("subject", l.msg.Subject()),
				zap.Uint64("sequence", l.sequence), zap.Any("panic", p), zap.Stack("stack"))
			l.back(setAside)
		}
	}()
	do()
}

// setAside is for how long a letter rests that made the replayer panic.
const setAside = 15 * time.Minute

// facts gathers what a letter's fate depends on.
func (r *Replayer) facts(l *held, now time.Time) facts {
	gate := r.gates.of(l.Provider, now)
	if gate.circuits.AnyHeld() {
		l.Learn()
	}
	return facts{
		now: now, stored: l.stored, gate: gate.closedTo(l.Letter), cancelled: r.cancelled(l.Letter, l.stored),
		retries: r.config.Retries, maxLife: r.config.MaxLife,
	}
}

// wait is how long a letter that is held goes back for.
func (r *Replayer) wait(v verdict, now time.Time) time.Duration {
	wait := v.wake.Sub(now)
	if v.watch {
		shortest, longest := shortestLook, longestLook
		if r.waiters.crowd() {
			shortest, longest = shortestCrowdLook, longestCrowdLook
		}
		wait = min(wait, r.waiters.delay(shortest, longest))
	}
	return max(wait, time.Millisecond)
}

// A letter that waits for a gate is looked at this often, so that it is due
// within ten seconds of the gate's opening. Where only a few wait they are
// looked at more often: it costs little.
const (
	shortestLook = 2 * time.Second
	longestLook  = 4 * time.Second

	shortestCrowdLook = 5 * time.Second
	longestCrowdLook  = 8 * time.Second
)

// held is a letter in this replayer's hands.
type held struct {
	Letter
	msg      jetstream.Msg
	sequence uint64
	stored   time.Time
}

func newHeld(msg jetstream.Msg) (*held, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	if _, err := wire.ParseSubject(msg.Subject()); err != nil {
		return nil, err
	}
	return &held{
		Letter: Read(msg.Subject(), msg.Headers(), msg.Data()),
		msg:    msg, sequence: meta.Sequence.Stream, stored: meta.Timestamp,
	}, nil
}

// back hands the letter back for a while. The wait is only a wake-up: it can
// be cut short by a restart of the server, and is then decided on again.
func (l *held) back(wait time.Duration) {
	_ = l.msg.NakWithDelay(wait) // should it be lost, AckWait brings the letter sooner
}

// ack takes the letter out of the DLQ. It waits for the server's word, for a
// letter that stays is done again.
func (l *held) ack(ctx context.Context, log *record.Log) error {
	return log.Point("ack", func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return l.msg.DoubleAck(ctx)
	})
}

// InProgress tells the server that the letter is still held.
func (l *held) InProgress() error { return l.msg.InProgress() }
