package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"fetchworker"
)

// named is the request of a path under /v1/requests.
func (c *call) named() fetchworker.Identity {
	return fetchworker.Identity{Provider: c.r.PathValue("provider"), Operation: c.r.PathValue("operation"), Agent: c.agent.Agent(), ID: c.r.PathValue("id")}
}

// show answers with the answer of a request that was asked earlier, by whatever
// way. Nothing is asked anew.
func (g *Gateway) show(c *call) {
	id := c.named()
	if !valid(id) {
		g.failed(c, id, fetchworker.ErrNoAnswer) // no request has such a name
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, g.config.patience.store)
	defer cancel()
	var a fetchworker.Answer
	var err error
	wait := preferred(c, 0)
	if wait == 0 {
		a, err = c.agent.Result(ctx, id)
	} else {
		ctx, cancel := context.WithTimeout(c.ctx, wait)
		defer cancel()
		a, err = c.agent.Wait(ctx, id)
	}
	var pending *fetchworker.PendingError
	switch {
	case errors.As(err, &pending) && pending.Last != nil:
		g.accepted(c, id, pending.Last)
	case errors.As(err, &pending), errors.Is(err, fetchworker.ErrNoAnswer):
		if g.lately.asked(id) {
			g.accepted(c, id, nil)
			return
		}
		c.w.Header().Set("Retry-After", retryAfter(time.Now().Add(queuedAgain)))
		g.failed(c, id, fetchworker.ErrNoAnswer)
	case err != nil:
		g.failed(c, id, err)
	case !a.Final:
		g.accepted(c, id, &a)
	default:
		g.answer(c, &a, 0)
	}
}

// cancel cancels a request.
func (g *Gateway) cancel(c *call) {
	id := c.named()
	if !valid(id) {
		g.failed(c, id, fetchworker.ErrNoAnswer)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, standardWait)
	defer cancel()
	done, err := c.agent.Cancel(ctx, id)
	if err != nil {
		g.failed(c, id, err)
		return
	}
	sendJSON(c.w, map[string]int{"cancelled": done.Cancelled, "final": done.Final})
}

func valid(id fetchworker.Identity) bool {
	return fetchworker.ValidToken(id.Provider) && fetchworker.ValidToken(id.Operation) && fetchworker.ValidID(id.ID)
}

// sendJSON answers with a value that has a moment to live.
func sendJSON(w http.ResponseWriter, value any) {
	text, err := json.Marshal(value)
	if err != nil { // every value is plain
		refuse(w, http.StatusInternalServerError, "the answer cannot be written")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(text, '\n')) // the client is gone then
}

// mostLately are the requests that are remembered.
const mostLately = 1 << 16

// lately remembers which requests this gateway has stored, the newest: of
// those nothing may be stored yet, and still they are no unknown ones.
type lately struct {
	mu  sync.Mutex
	old map[fetchworker.Identity]struct{}
	now map[fetchworker.Identity]struct{}
}

func newLately() *lately {
	return &lately{old: map[fetchworker.Identity]struct{}{}, now: map[fetchworker.Identity]struct{}{}}
}

func (l *lately) note(id fetchworker.Identity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.now) >= mostLately/2 {
		l.old, l.now = l.now, map[fetchworker.Identity]struct{}{}
	}
	l.now[id] = struct{}{}
}

func (l *lately) asked(id fetchworker.Identity) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, now := l.now[id]
	_, old := l.old[id]
	return now || old
}

// providers answers with what can be asked.
func (g *Gateway) providers(c *call) {
	all, err := g.catalogue.All(c.ctx)
	if err != nil {
		g.failed(c, fetchworker.Identity{}, err)
		return
	}
	for i := range all {
		all[i].Now = nil // GET /v1/limits tells it
	}
	sendJSON(c.w, map[string]any{"providers": all})
}

// standing is how a provider stands.
type standing struct {
	Provider   string                `json:"provider"`
	Configured bool                  `json:"configured"`
	Now        *fetchworker.Standing `json:"now,omitempty"`
}

// limits answers with what is left, and when more comes.
func (g *Gateway) limits(c *call) {
	all, err := g.catalogue.Standings(c.ctx)
	if err != nil {
		g.failed(c, fetchworker.Identity{}, err)
		return
	}
	list := make([]standing, len(all))
	for i, p := range all {
		list[i] = standing{p.Provider, p.Configured, p.Now}
	}
	sendJSON(c.w, map[string]any{"providers": list})
}
