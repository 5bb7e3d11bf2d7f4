package page

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"fetchworker/internal/doctor"
	"fetchworker/internal/operate"
	"fetchworker/internal/wait"

	"go.uber.org/zap"
)

const (
	lookEach  = 2 * time.Second // while somebody watches
	idleEach  = 30 * time.Second
	watchedIs = 15 * time.Second // how long after the last look somebody watches
	firstWait = 200 * time.Millisecond
	lookTime  = 20 * time.Second
)

// watch renders a view again and again, and sends it when it has changed.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, look viewer) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, "too many watch", http.StatusTooManyRequests)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	unfollow := context.AfterFunc(s.running, cancel)
	defer unfollow()
	r = r.WithContext(ctx)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // the request has been read: its time would end the view
	var before []byte
	for {
		v := s.see(r, look)
		var body bytes.Buffer
		if err := s.views.ExecuteTemplate(&body, "main", s.filled(r, v)); err != nil {
			s.Log.Error("page", zap.String("view", v.Name), zap.Error(err))
			return
		}
		text := []byte(": nothing new\n\n")
		if !bytes.Equal(before, body.Bytes()) {
			before = bytes.Clone(body.Bytes())
			text = []byte("data: " + string(bytes.ReplaceAll(before, []byte("\n"), []byte("\ndata: "))) + "\n\n")
		}
		_ = out.SetWriteDeadline(time.Now().Add(lookTime)) // a browser that has gone to sleep
		if _, err := w.Write(text); err != nil || out.Flush() != nil {
			return
		}
		if v.Still {
			_, _ = fmt.Fprint(w, "event: still\ndata: 1\n\n")
			return
		}
		if wait.For(ctx, lookEach) != nil {
			return // a browser that is there comes back
		}
	}
}

// looks keeps the latest overview at hand, so that no browser waits for one,
// however many letters there are.
type looks struct {
	s    *Server
	poke chan struct{}

	mu      sync.Mutex
	last    *overall
	failed  error
	asked   time.Time
	began   time.Time     // the look that is under way, or the last
	changed chan struct{} // closed at the next look
}

// overall is the fleet as last looked at, with the verdict.
type overall struct {
	operate.Overview
	Verdict doctor.Diagnosis
	Facts   doctor.Facts
	Took    time.Duration
}

func newLooks(s *Server) *looks {
	return &looks{s: s, poke: make(chan struct{}, 1), changed: make(chan struct{})}
}

func (l *looks) run(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		l.mu.Lock()
		l.began = began
		l.mu.Unlock()
		seen, err := l.look(ctx)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		if l.failed = err; err == nil {
			seen.Took = time.Since(began)
			l.last = seen
		}
		close(l.changed)
		l.changed = make(chan struct{})
		each := idleEach
		if time.Since(l.asked) < watchedIs {
			each = lookEach
		}
		l.mu.Unlock()
		next := time.NewTimer(each)
		select {
		case <-ctx.Done():
		case <-next.C:
		case <-l.poke:
			_ = wait.For(ctx, 100*time.Millisecond) // several at once are one
		}
		next.Stop()
	}
}

func (l *looks) look(ctx context.Context) (*overall, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	o, err := l.s.Fleet.Overview(ctx, "")
	if err != nil {
		return nil, err
	}
	for i := range o.Providers {
		o.Providers[i].BytesOutAt = operate.RunsOut(o.Providers[i].BytesUsed, o.Providers[i].BytesLimit, o.At)
	}
	facts, err := doctor.Gather(ctx, l.s.Desk, l.s.Fleet, o)
	if err != nil {
		return nil, err
	}
	return &overall{Overview: o, Verdict: doctor.Judge(facts), Facts: facts}, nil
}

// get is the latest look; nil while the first is still under way.
func (l *looks) get(ctx context.Context) (*overall, error) {
	l.mu.Lock()
	idle := time.Since(l.asked) > watchedIs
	l.asked = time.Now()
	last, err, changed := l.last, l.failed, l.changed
	patience := firstWait
	if last == nil && !l.began.IsZero() { // one that takes long is not waited for by every view
		patience -= time.Since(l.began)
	}
	l.mu.Unlock()
	if idle {
		wait.Signal(l.poke)
	}
	if last == nil && err == nil || idle {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		l.mu.Lock()
		last, err = l.last, l.failed
		l.mu.Unlock()
	}
	if last != nil && (err == nil || time.Since(last.At) < time.Minute) {
		return last, nil
	}
	return nil, err
}

// again has the next look come soon, after an act.
func (l *looks) again() { wait.Signal(l.poke) }
