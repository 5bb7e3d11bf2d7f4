package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"fetchworker"
)

const (
	// beatTime is between two signs of life on a stream where nothing happens.
	beatTime = 15 * time.Second
	// comeBack is how soon a client that lost its stream should be back.
	comeBack = 2 * time.Second
	// bodyInEvent is the largest JSON body that an event holds.
	bodyInEvent = 8 << 10
	// mostStreams are open at a time.
	mostStreams = 4096
	// readers read the store at the same time for those who lag.
	readers = 4
)

// answerEvent is what an event tells of an answer.
type answerEvent struct {
	Provider    string               `json:"provider"`
	Operation   string               `json:"operation"`
	ID          string               `json:"id"`
	Status      fetchworker.Status   `json:"status"`
	Final       bool                 `json:"final"`
	Location    string               `json:"location"` // where the answer is, with its body
	Source      fetchworker.Source   `json:"source,omitempty"`
	FetchedAt   time.Time            `json:"fetched_at,omitzero"`
	Reason      fetchworker.Reason   `json:"reason,omitempty"`
	RetryAt     time.Time            `json:"retry_at,omitzero"`
	ContentType string               `json:"content_type,omitempty"`
	Bytes       int64                `json:"bytes,omitempty"`
	SHA256      string               `json:"sha256,omitempty"`
	Problem     *fetchworker.Problem `json:"problem,omitempty"`
	Body        json.RawMessage      `json:"body,omitempty"` // JSON of at most 8 KiB; what is larger is at its location
}

// eventOf is an answer as it is sent, with its place in the stream as its id.
func eventOf(a fetchworker.Answer) event {
	e := answerEvent{
		Provider: a.Identity.Provider, Operation: a.Identity.Operation, ID: a.Identity.ID, Status: a.Status, Final: a.Final,
		Location: location(a.Identity), Source: a.Source, FetchedAt: a.FetchedAt, Reason: a.Reason, RetryAt: a.RetryAt,
		ContentType: a.ContentType, Bytes: int64(len(a.Body)), SHA256: a.SHA256, Problem: a.Problem,
	}
	switch {
	case a.Claim != nil:
		e.Bytes = a.Claim.Bytes
	case len(a.Body) <= bodyInEvent && json.Valid(a.Body):
		e.Body = a.Body
	}
	text, err := json.Marshal(e) // on one line
	if err != nil {              // every field is plain
		text = []byte("{}")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "id: %d\nevent: answer\ndata: %s\n\n", a.Sequence, text)
	return event{a.Sequence, b.Bytes()}
}

// events sends the agent's answers as they come, whoever asked for them, until
// the client has enough. With Last-Event-ID it goes on from there.
func (g *Gateway) events(c *call) {
	after, resumes, err := lastEventID(c.r)
	if err != nil {
		refuse(c.w, http.StatusBadRequest, "Last-Event-ID: the id of an event of this stream")
		return
	}
	if g.streams.Add(1) > mostStreams {
		g.streams.Add(-1)
		c.w.Header().Set("Retry-After", "5")
		refuse(c.w, http.StatusServiceUnavailable, "too many streams are open")
		return
	}
	defer g.streams.Add(-1)
	g.metrics.streams.Inc()
	defer g.metrics.streams.Dec()

	joining, cancel := context.WithTimeout(c.ctx, g.config.patience.store)
	place, newest, leave, err := c.agent.feed.join(joining)
	cancel()
	defer leave()
	if err != nil {
		g.failed(c, fetchworker.Identity{Agent: c.agent.Agent()}, err)
		return
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold it back
	if c.r.Method == http.MethodHead {
		return
	}
	s := &stream{g: g, c: c, place: place, read: newest}
	if resumes {
		s.read, s.behind = min(after, newest), true // beyond: of answers that are gone, as when a store was made anew
	}
	s.sent = s.read
	if s.write([]byte("retry: "+strconv.Itoa(int(comeBack/time.Millisecond))+"\n\n")) == nil {
		s.run()
	}
}

var errRevoked = errors.New("the token is not the agent's any more")

func lastEventID(r *http.Request) (after uint64, resumes bool, err error) {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		return 0, false, nil
	}
	after, err = strconv.ParseUint(id, 10, 63)
	return after, true, err
}

// stream is one client's.
type stream struct {
	g      *Gateway
	c      *call
	place  int    // in the feed
	read   uint64 // the sequence up to which the store was read
	sent   uint64 // the highest that was sent
	behind bool   // it must read the store first
}

// run sends until the client, the gateway or the feed has ended.
func (s *stream) run() {
	beat := time.NewTimer(beatTime)
	defer beat.Stop()
	for s.c.ctx.Err() == nil {
		if s.behind {
			if s.catchUp() != nil {
				return
			}
			s.behind = false
		}
		some, behind, changed, err := s.c.agent.feed.from(s.place)
		switch {
		case behind:
			s.behind, s.place = true, s.c.agent.feed.next()
			continue
		case err != nil:
			return // the client comes back
		case len(some) > 0:
			if s.send(some) != nil {
				return
			}
			continue
		}
		beat.Reset(beatTime)
		select {
		case <-changed:
		case <-beat.C:
			if s.write([]byte(":\n\n")) != nil {
				return
			}
		case <-s.c.ctx.Done():
		}
	}
}

// send sends events of the feed, but for what was read from the store.
func (s *stream) send(some []event) error {
	var text []byte
	for _, e := range some {
		if s.place++; e.sequence > s.read {
			s.sent = max(s.sent, e.sequence)
			text = append(text, e.text...)
		}
	}
	if len(text) == 0 {
		return nil
	}
	return s.write(text)
}

func (s *stream) write(text []byte) error {
	if name, _ := s.g.who(s.c.r); name != s.c.agent.Agent() {
		return errRevoked // its token was taken back meanwhile
	}
	if _, err := s.c.w.Write(text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	s.c.w.Flush()
	return nil
}

// catchUp sends what is stored beyond what was sent. Few read at a time: a page
// of answers may be large, and what is sent of it is not.
func (s *stream) catchUp() error {
	for s.read = max(s.read, s.sent); ; {
		page, read, err := s.page()
		if err != nil || read == s.read {
			return err
		}
		s.read, s.sent = read, read
		if len(page) > 0 {
			if err := s.write(page); err != nil {
				return err
			}
		}
	}
}

func (s *stream) page() (text []byte, read uint64, err error) {
	select {
	case s.g.reading <- struct{}{}:
		defer func() { <-s.g.reading }()
	case <-s.c.ctx.Done():
		return nil, s.read, s.c.ctx.Err()
	}
	answers, read, err := s.c.agent.AnswersAfter(s.c.ctx, s.read)
	for _, a := range answers {
		text = append(text, eventOf(a).text...)
	}
	return text, read, err
}
