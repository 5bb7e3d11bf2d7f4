package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Applied is what Apply has done to one stream.
type Applied struct {
	Stream string
	Did    string   // created, updated, as wanted, left as a newer version made it
	Kept   []string // an operator's decisions that stand
	Undone []string // differences that were left: no permission, and no guarantee stands on them
	Losing []string // decided, and left undone since it would lose something; see Options.AcceptLoss
}

// Apply brings every stream and bucket to its wanted form: looked up first,
// so that credentials without the right to create are enough where all is in
// place; then created, or updated where it differs. Who may not update can go
// on where nothing is missing that a guarantee stands on. Any other difference
// that remains is an error that names the stream, the field and both values.
// Nothing is ever deleted, and nothing lost, unless o.AcceptLoss says so. tell
// hears of each stream; nil hears nothing.
func Apply(ctx context.Context, js jetstream.JetStream, o Options, tell func(Applied)) error {
	want := Streams(o)
	if err := unmoved(ctx, js, o); err != nil {
		return err
	}
	if err := room(ctx, js, want); err != nil {
		return err
	}
	made := makeMissing(ctx, js, want)
	var failed []error
	for _, config := range want {
		if made[config.Name] {
			if tell != nil {
				tell(Applied{Stream: config.Name, Did: didCreate})
			}
			continue
		}
		applied, err := applyStream(ctx, js, config, o)
		if err != nil {
			if failed = append(failed, err); errors.Is(err, errLookUp) {
				break // the others would fail as it did, each after its time
			}
			continue
		}
		if tell != nil {
			tell(applied)
		}
	}
	return errors.Join(failed...)
}

const didCreate = "created"

// makeMissing makes what is missing all at once, and tells what it made: in a
// cluster each stream waits a second or more for its leader. What goes wrong is
// left to whoever goes through them one by one, and tells it.
func makeMissing(ctx context.Context, js jetstream.JetStream, want []jetstream.StreamConfig) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	made := make([]bool, len(want))
	group, making := errgroup.WithContext(ctx)
	for i, config := range want {
		group.Go(func() error {
			if _, err := lookUp(making, js, config.Name); !errors.Is(err, jetstream.ErrStreamNotFound) {
				return err
			}
			err := refusable(making, js, func(ctx context.Context) error {
				_, err := js.CreateStream(ctx, config)
				return err
			})
			made[i] = err == nil
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				return nil // another process was faster
			}
			return err
		})
	}
	if group.Wait() != nil {
		// What the server has against the others' requests comes before its answer
		// to this, and is not taken for a word about those that follow.
		_ = js.Conn().FlushWithContext(ctx)
	}
	all := map[string]bool{}
	for i, config := range want {
		all[config.Name] = made[i]
	}
	return all
}

// unmoved looks whether the streams are on their way to or from this server.
func unmoved(ctx context.Context, js jetstream.JetStream, o Options) error {
	stream, err := lookUp(ctx, js, fetchworker.StreamRequests)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	err = moves(stream.CachedInfo().Config)
	if errors.Is(err, ErrMoved) && o.Return {
		return mark(ctx, js, fetchworker.StreamRequests, func(metadata map[string]string) {
			delete(metadata, movedKey)
			delete(metadata, wholeKey)
		})
	}
	return err
}

// ErrMissing says that a stream is not there, and that these credentials may
// not make it: somebody else will, or has to be told.
var ErrMissing = errors.New("is missing, and these credentials may not create it")

func applyStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, o Options) (Applied, error) {
	ctx, cancel := context.WithTimeout(ctx, streamTime)
	defer cancel()
	for range 3 { // another process may be applying the same
		stream, err := lookUp(ctx, js, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			err = refusable(ctx, js, func(ctx context.Context) error {
				_, err := js.CreateStream(ctx, want)
				return err
			})
			switch {
			case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
				continue
			case denied(err):
				return Applied{}, fmt.Errorf("stream %s %w: %w", want.Name, ErrMissing, err)
			case err != nil:
				return Applied{}, fmt.Errorf("create stream %s: %w", want.Name, err)
			}
			return Applied{Stream: want.Name, Did: didCreate}, nil
		}
		if err != nil {
			return Applied{}, err
		}
		d, err := compare(ctx, js.Conn(), stream, want, o)
		if err != nil {
			return Applied{}, fmt.Errorf("stream %s: %w", want.Name, err)
		}
		return bring(ctx, js, d)
	}
	return Applied{}, fmt.Errorf("stream %s: created and deleted by others meanwhile", want.Name)
}

// bring does what a difference asks for.
func bring(ctx context.Context, js jetstream.JetStream, d difference) (Applied, error) {
	a := Applied{Stream: d.config.Name, Did: "as wanted", Kept: d.kept, Losing: d.losing}
	lacking, why := d.unmet, errors.New("cannot be applied")
	switch {
	case d.newer:
		a.Did, a.Undone, a.Losing = "left as a newer version made it", d.other, nil
		lacking, why = append(d.needed, d.unmet...), errors.New("a newer version made it so")
	case len(d.needed)+len(d.other) > 0:
		a.Did = "updated"
		err := refusable(ctx, js, func(ctx context.Context) error {
			_, err := js.UpdateStream(ctx, d.config)
			return err
		})
		switch {
		case denied(err):
			a.Did, a.Undone = "as it must be", d.other
			lacking, why = append(d.needed, d.unmet...), fmt.Errorf("cannot be applied: %w", err)
		case err != nil:
			lacking, why = append(d.needed, d.other...), fmt.Errorf("cannot be applied: %w", err)
		}
	}
	if len(lacking) > 0 {
		return Applied{}, fmt.Errorf("stream %s: %s: %w", a.Stream, strings.Join(lacking, "; "), why)
	}
	return a, nil
}

// streamTime is what a stream may take to be looked up, and made or changed.
const streamTime = 15 * time.Second

var errLookUp = errors.New("look up stream")

// lookTimes are how long each look for a stream is given. Servers that have no
// leader yet, of which a cluster that has just come up has none for seconds,
// leave a request without a word: to wait long for one is to wait in vain.
var lookTimes = [...]time.Duration{time.Second, time.Second, 2 * time.Second, 2 * time.Second, 4 * time.Second}

func lookUp(ctx context.Context, js jetstream.JetStream, name string) (stream jetstream.Stream, err error) {
	for _, within := range lookTimes {
		stream, err = lookOnce(ctx, js, name, within)
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%w %s: %w", errLookUp, name, err)
	}
	return stream, err
}

func lookOnce(ctx context.Context, js jetstream.JetStream, name string, within time.Duration) (stream jetstream.Stream, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err = refusable(ctx, js, func(ctx context.Context) error {
		stream, err = js.Stream(ctx, name)
		return err
	})
	return stream, err
}

// refusable makes a request that the credentials may not allow. NATS reports
// a refused permission beside the request, which itself would only time out:
// so it is looked for, and ends the request.
func refusable(ctx context.Context, js jetstream.JetStream, request func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	before := js.Conn().LastError()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				// Another error value than before is another violation.
				if now := js.Conn().LastError(); now != before && errors.Is(now, nats.ErrPermissionViolation) { //nolint:errorlint // identity is meant
					cancel(now)
				}
			}
		}
	}()
	err := request(ctx)
	if cause := context.Cause(ctx); err != nil && denied(cause) {
		err = cause
	}
	cancel(nil)
	<-watched
	return err
}

// denied reports whether the credentials do not allow a request.
func denied(err error) bool { return errors.Is(err, nats.ErrPermissionViolation) }
