package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"
)

const (
	// suspectAfter deliveries that came to nothing a message may be what kills
	// workers.
	suspectAfter = 5
	// everyone is the share that leaves no room beside it.
	everyone = 1 << 20
	// poisonAfter lone runs that killed the worker it certainly is.
	poisonAfter = 3
)

var (
	// errPoison says that a message has killed its worker often enough.
	errPoison = errors.New("the request stopped its worker in three runs of its own")
	// errElsewhere says that a suspect's last run may still be going on.
	errElsewhere = errors.New("another worker may be running this suspect")
)

// guarded runs the part of a request's life in which it could kill its
// worker. A suspect runs it alone in the process: a delivery count by itself
// would bury the neighbours that a crash takes along, and it counts what was
// no crash at all. So its key in the bucket says which deliveries ended with
// us handing it back, and which lone runs have begun and not come back.
func (w *Worker) guarded(ctx context.Context, d *delivery, run func() error) error {
	var s *suspicion
	if d.count > suspectAfter {
		known, err := w.suspicionOf(ctx, d)
		if err != nil {
			return err
		}
		if d.count-1 >= suspectAfter+uint64(known.HandedBack) { //nolint:gosec // small, and never negative
			s = &known
		}
	}
	if s == nil {
		return w.sharing(ctx, d, 1, run)
	}
	dead, err := w.fallen(ctx, *s)
	if err != nil {
		return err
	}
	if dead >= poisonAfter {
		return w.poison(ctx, d)
	}
	return w.sharing(ctx, d, everyone, func() error {
		// Raised before the run, lowered after it: what stands there otherwise
		// is a run that did not come back.
		if err := w.suspect(ctx, d, func(s *suspicion) { s.Running = append(s.Running, w.name) }); err != nil {
			return fmt.Errorf("raise the suspicion of %s: %w", d.msg.Subject(), err)
		}
		d.lone = true
		defer w.cameBack(d)
		return run()
	})
}

// sharing runs something while this delivery has a share of the process.
func (w *Worker) sharing(ctx context.Context, d *delivery, share int64, run func() error) error {
	if err := w.inside.Acquire(ctx, share); err != nil {
		return err
	}
	d.share = share
	defer func() {
		w.inside.Release(d.share)
		d.share = 0
	}()
	return run()
}

// aside waits for something that nobody else may have to wait for: its share
// is for others meanwhile, and a suspect that only waits is none.
func (w *Worker) aside(d *delivery, wait func() error) error {
	if d.share == 0 {
		return wait()
	}
	w.cameBack(d)
	w.inside.Release(d.share)
	err := wait()
	// Nobody who has a share keeps it while he waits: this cannot last.
	_ = w.inside.Acquire(context.WithoutCancel(w.working), 1)
	d.share = 1
	return err
}

// asideOf has a request wait aside, its message kept alive meanwhile.
func (w *Worker) asideOf(r *request) func(wait func() error) error {
	return func(wait func() error) error {
		r.start()
		return w.aside(r.delivery, wait)
	}
}

// suspicion is what the bucket holds against a message, under its key.
type suspicion struct {
	HandedBack int      `json:"handed_back,omitempty"` // deliveries that we gave back ourselves
	Running    []string `json:"running,omitempty"`     // workers whose lone run has not come back
}

func (d *delivery) suspectKey() string {
	return suspectPrefix + d.stream() + "." + strconv.FormatUint(d.sequence, 10)
}

const suspectPrefix = "suspect."

// suspicionOf reads what stands against a message.
func (w *Worker) suspicionOf(ctx context.Context, d *delivery) (suspicion, error) {
	s, _, err := w.readSuspicion(ctx, d.suspectKey())
	return s, err
}

func (w *Worker) readSuspicion(ctx context.Context, key string) (suspicion, uint64, error) {
	var s suspicion
	entry, err := w.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return s, 0, nil
	}
	if err != nil {
		return s, 0, fmt.Errorf("read %s: %w", key, err)
	}
	// What cannot be read counts for nothing, or it would hold the request for ever.
	if json.Unmarshal(entry.Value(), &s) != nil {
		s = suspicion{}
	}
	return s, entry.Revision(), nil
}

// suspect edits what stands against a message.
func (w *Worker) suspect(ctx context.Context, d *delivery, edit func(*suspicion)) error {
	key := d.suspectKey()
	for {
		s, revision, err := w.readSuspicion(ctx, key)
		if err != nil {
			return err
		}
		edit(&s)
		value, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("write %s: %w", key, err)
		}
		if revision == 0 {
			_, err = w.kv.Create(ctx, key, value)
		} else {
			_, err = w.kv.Update(ctx, key, value, revision)
		}
		if err == nil {
			return nil
		}
		var api *jetstream.APIError
		if !errors.Is(err, jetstream.ErrKeyExists) && !errors.As(err, &api) {
			return fmt.Errorf("write %s: %w", key, err)
		}
		if err := wait.Between(ctx, 0, 10*time.Millisecond); err != nil { // another was faster
			return err
		}
	}
}

// fallen is how many lone runs of a suspect ended with their worker. One that
// may still be going on, or whose worker has only lost the server, is none.
func (w *Worker) fallen(ctx context.Context, s suspicion) (int, error) {
	dead := 0
	for _, name := range s.Running {
		if name == w.name {
			return 0, errElsewhere // lowering it is still to come
		}
		alive, err := fleet.Lives(ctx, w.kv, name)
		if err != nil {
			return 0, err
		}
		if alive {
			return 0, errElsewhere
		}
		dead++
	}
	return dead, nil
}

// cameBack lowers the suspicion again that a lone run raised. If the server
// cannot be reached it is done as soon as it can: an outage is no death.
func (w *Worker) cameBack(d *delivery) {
	if !d.lone {
		return
	}
	d.lone = false
	lower := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(w.working, within)
		defer cancel()
		return w.suspect(ctx, d, func(s *suspicion) {
			if i := slices.Index(s.Running, w.name); i >= 0 {
				s.Running = slices.Delete(s.Running, i, i+1)
			}
		})
	}
	if lower(time.Second) == nil {
		return
	}
	w.owed.Go(func() {
		for lower(5*time.Second) != nil {
			if wait.Between(w.working, 100*time.Millisecond, 300*time.Millisecond) != nil {
				return
			}
		}
	})
}

// handBack gives a message to another worker, after a while or at once. That
// we did is written down, so that it raises no suspicion; a first time raises
// none anyway.
func (w *Worker) handBack(d *delivery, after time.Duration) {
	if d.count > 1 {
		if err := w.givesBack(d); err != nil {
			w.logger.Debug("hand-back not written down", zap.String("subject", d.msg.Subject()), zap.Error(err))
		}
	}
	d.handBack(after)
}

// givesBack writes down that a message is handed back, also when the drain time
// is over.
func (w *Worker) givesBack(d *delivery) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.working), time.Second)
	defer cancel()
	return w.suspect(ctx, d, func(s *suspicion) { s.HandedBack++ })
}

// cleared removes what stood against a message that has its end. Nobody waits
// for it, and one that is forgotten here is found by the look over all.
func (w *Worker) cleared(d *delivery) {
	const couldStand = 3 // deliveries, from which on something may
	if d.count < couldStand {
		return
	}
	select {
	case w.ends <- d.suspectKey():
	default:
	}
}

const (
	endsWaiting  = 1024
	suspectsEach = 10 * time.Minute
)

// clearSuspects removes the records of messages that have their end, as they
// end, and now and then of those whose worker had no time to.
func (w *Worker) clearSuspects(ctx context.Context) {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-w.ends:
			if _, revision, err := w.readSuspicion(ctx, key); err == nil && revision != 0 {
				w.purge(ctx, key)
			}
		case <-look.C:
			if err := w.clearLeft(ctx); err != nil && ctx.Err() == nil {
				w.logger.Debug("look over suspects", zap.Error(err))
			}
			look.Reset(wait.Jitter(suspectsEach, 2*suspectsEach))
		}
	}
}

func (w *Worker) clearLeft(ctx context.Context) error {
	watch, err := w.kv.Watch(ctx, suspectPrefix+">", jetstream.IgnoreDeletes(), jetstream.MetaOnly())
	if err != nil {
		return err
	}
	defer func() { _ = watch.Stop() }() // it fails only if the connection is gone
	for {
		// With the connection gone nothing comes, and nothing ends.
		var entry jetstream.KeyValueEntry
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case entry = <-watch.Updates():
		}
		if entry == nil {
			return nil
		}
		stream, number, ok := strings.Cut(strings.TrimPrefix(entry.Key(), suspectPrefix), ".")
		sequence, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil {
			continue
		}
		m, err := w.log.Next(ctx, stream, ">", sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Sequence != sequence {
			w.purge(ctx, entry.Key())
		}
	}
}

func (w *Worker) purge(ctx context.Context, key string) {
	if err := w.kv.Purge(ctx, key, jetstream.PurgeTTL(time.Minute)); err != nil && ctx.Err() == nil {
		w.logger.Debug("record of a suspect not removed", zap.String("key", key), zap.Error(err))
	}
}

// poison buries a message that is not run any more. Only what its identity
// needs is read of it.
func (w *Worker) poison(ctx context.Context, d *delivery) error {
	r, _ := w.decode(d)
	if err := w.bury(ctx, r, wire.ClassPoison, fetchworker.CodePoison, errPoison.Error()); err != nil {
		return err
	}
	return errPoison
}
