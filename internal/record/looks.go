package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Looks reads the last messages of a stream's subjects with few messages for
// many requests. All who look while a look is under way share the next one: at
// 64 calls at once some thirty subjects are asked for in one message, and the
// look costs a server an eighth. A look has only so many of each provider, and
// beside one provider's crowd another's subject is looked for at once and by
// itself: nobody else's request waits for the crowd's. It is safe for concurrent
// use.
type Looks struct {
	nc     *nats.Conn
	stream string
	inbox  string
	sub    *nats.Subscription

	mu     sync.Mutex
	next   []*look          // to be made, one after the other
	asked  *look            // under way; nil if none is
	beside map[string]*look // under way besides, for one subject each, by number
	made   uint64
}

// look is one request for many subjects, and what is known of them when it is
// done.
type look struct {
	number   string // in its inbox
	subjects map[string]struct{}
	of       map[string]int // how many subjects of a provider
	crowd    bool           // of one
	found    map[string]*nats.Msg
	single   bool // it asks for one subject
	partial  bool // there is more than was sent
	err      error
	done     chan struct{}
	patient  *time.Timer // ends it
}

func newLook() *look {
	return &look{subjects: map[string]struct{}{}, of: map[string]int{}, found: map[string]*nats.Msg{}, done: make(chan struct{})}
}

const (
	// looksAtOnce bounds a look, looksOfOne what it has of one provider.
	looksAtOnce, looksOfOne = 256, 64
	// looksCrowd subjects of one provider in a look are a crowd, and besideAtOnce
	// others are looked for beside it at the most: they are for the few.
	looksCrowd, besideAtOnce = 16, 4
	// looksWaiting are to be made at the most. Whoever would be one more goes
	// without.
	looksWaiting = 4
	// bytesAtOnce is far less than a server lets wait for one connection.
	bytesAtOnce = 8 << 20
	// lookLasts is how long an answer is waited for: a look must hold nobody up.
	lookLasts = 2 * time.Second
)

var errLook = errors.New("look: no answer")

// NewLooks begins to look into a stream; Close ends it.
func NewLooks(js jetstream.JetStream, stream string) (*Looks, error) {
	s := &Looks{nc: js.Conn(), stream: stream, inbox: js.Conn().NewInbox(), beside: map[string]*look{}}
	var err error
	if s.sub, err = s.nc.Subscribe(s.inbox+".*", s.take); err != nil {
		return nil, fmt.Errorf("look into %s: %w", stream, err)
	}
	return s, nil
}

// Read is what stands under a subject, nil if nothing does.
func (s *Looks) Read(ctx context.Context, subject string) (*nats.Msg, error) {
	return s.Begin(subject).Wait(ctx)
}

// Glance is one subject's part in a look that has begun.
type Glance struct {
	in      *Looks
	subject string
	look    *look // nil: there was no room in it
}

// Begin starts to look for what somebody will ask for later.
func (s *Looks) Begin(subject string) Glance {
	s.mu.Lock()
	defer s.mu.Unlock()
	provider := providerOf(subject)
	if s.crowded(provider) {
		l := newLook()
		l.add(subject, provider)
		s.make(l)
		return Glance{s, subject, l}
	}
	l := s.room(subject, provider)
	if l == nil {
		return Glance{in: s, subject: subject}
	}
	s.ask()
	return Glance{s, subject, l}
}

// crowded reports whether a provider that has nothing here itself would wait for
// another's crowd, and need not.
func (s *Looks) crowded(provider string) bool {
	if s.asked == nil || len(s.beside) >= besideAtOnce {
		return false
	}
	crowd, own := s.asked.crowd, s.asked.of[provider]
	for _, l := range s.next {
		crowd, own = crowd || l.crowd, own+l.of[provider]
	}
	return crowd && own == 0
}

func (l *look) add(subject, provider string) {
	l.subjects[subject] = struct{}{}
	l.of[provider]++
	l.crowd = l.crowd || l.of[provider] >= looksCrowd
}

// room is the first look to be made that has room for a subject, with the
// subject in it; nil if none has.
func (s *Looks) room(subject, provider string) *look {
	for i := range looksWaiting {
		if i == len(s.next) {
			s.next = append(s.next, newLook())
		}
		l := s.next[i]
		if _, has := l.subjects[subject]; has {
			return l
		}
		if len(l.subjects) < looksAtOnce && l.of[provider] < looksOfOne {
			l.add(subject, provider)
			return l
		}
	}
	return nil
}

// providerOf is the third token of a subject, which in those of answers and of
// cached bodies is the provider.
func providerOf(subject string) string {
	for range 2 {
		_, subject, _ = strings.Cut(subject, ".")
	}
	provider, _, _ := strings.Cut(subject, ".")
	return provider
}

// Begun reports whether it is part of a look at all; the zero Glance is not.
func (g Glance) Begun() bool { return g.in != nil }

// Wait is what stands there, nil if nothing does.
func (g Glance) Wait(ctx context.Context) (*nats.Msg, error) {
	for {
		if g.look == nil {
			return nil, errLook
		}
		select {
		case <-g.look.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if m := g.look.found[g.subject]; m != nil || !g.look.partial {
			return m, g.look.err
		}
		g = g.in.Begin(g.subject)
	}
}

// ask makes the next look, if none is under way.
func (s *Looks) ask() {
	if s.asked != nil || len(s.next) == 0 {
		return
	}
	l := s.next[0]
	s.asked, s.next = l, append(s.next[:0], s.next[1:]...)
	s.make(l)
}

// make makes a look: the one under way, or another one beside it.
func (s *Looks) make(l *look) {
	s.made++
	l.number = strconv.FormatUint(s.made, 10)
	if l != s.asked {
		s.beside[l.number] = l
	}
	if err := s.send(l); err != nil {
		s.end(l, err)
		return
	}
	l.patient = time.AfterFunc(lookLasts, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(l, errLook)
	})
}

// send asks the server. One subject alone, which is what a request finds that
// comes while nothing else happens, is asked for by its name: that is one
// message back instead of two, and no document for the server to read.
func (s *Looks) send(l *look) error {
	api, inbox := "$JS.API.DIRECT.GET."+s.stream, s.inbox+"."+l.number
	if l.single = len(l.subjects) == 1; l.single {
		for subject := range l.subjects {
			api += "." + subject
		}
		return s.nc.PublishRequest(api, inbox, nil)
	}
	request, _ := json.Marshal(struct { // plain fields: cannot fail
		Last     []string `json:"multi_last"`
		Batch    int      `json:"batch"`
		MaxBytes int      `json:"max_bytes"`
	}{slices.Collect(maps.Keys(l.subjects)), looksAtOnce, bytesAtOnce})
	return s.nc.PublishRequest(api, inbox, request)
}

// take takes one value in, or the server's word that there are no more.
func (s *Looks) take(m *nats.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, number := s.asked, m.Subject[len(s.inbox)+1:]
	if l == nil || number != l.number {
		if l = s.beside[number]; l == nil {
			return
		}
	}
	if IsStored(m.Header) {
		if l.found[Own(m.Header, jetstream.SubjectHeader)] = m; l.single {
			s.end(l, nil)
		}
		return
	}
	switch status := m.Header.Get("Status"); status {
	case "204": // that was all, or more than goes at once
		l.partial = m.Header.Get("Nats-Num-Pending") != "0" && len(l.found) > 0
		s.end(l, nil)
	case "404": // there is nothing
		s.end(l, nil)
	default:
		s.end(l, fmt.Errorf("look: the server says %s %s", status, m.Header.Get("Description")))
	}
}

// end ends a look that is under way, and makes the next if it was the one that
// others waited for.
func (s *Looks) end(l *look, err error) {
	besides := s.beside[l.number] == l
	if s.asked != l && !besides {
		return
	}
	if l.patient != nil {
		l.patient.Stop()
	}
	l.err = err
	close(l.done)
	if besides {
		delete(s.beside, l.number)
		return
	}
	s.asked = nil
	s.ask()
}

// Close ends it.
func (s *Looks) Close() { _ = s.sub.Unsubscribe() }
