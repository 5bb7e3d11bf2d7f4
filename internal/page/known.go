package page

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/nearest"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

// names are what filters may name: a name that nothing is of is a typing error,
// and must not look like good news.
type names struct {
	s *Server

	mu      sync.Mutex
	agents  []string // with usage lately
	read    time.Time
	missing bool            // nobody counts
	others  map[string]bool // kinds and names that something is stored of
}

const (
	namesLast   = time.Minute
	namesLook   = 7 * 24 * time.Hour // how far back agents are listed
	namesListed = 200                // in a form
)

func newNames(s *Server) *names { return &names{s: s, others: map[string]bool{}} }

// providers are those that the fleet names.
func (n *names) providers(ctx context.Context) ([]string, error) {
	o, err := n.s.looks.get(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	if o == nil { // the first look is not over
		served, err := n.s.Fleet.Served(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range served {
			all[p] = true
		}
		for p := range n.s.Fleet.Keyless() {
			all[p] = true
		}
		return slices.Sorted(maps.Keys(all)), nil
	}
	for _, p := range o.Providers {
		all[p.Provider] = true
	}
	for _, p := range o.Unserved.Names {
		all[p] = true
	}
	for p := range o.Keyless {
		all[p] = true
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// people are the agents that have used anything lately; none where nobody counts.
func (n *names) people(ctx context.Context) ([]string, error) {
	n.mu.Lock()
	agents, fresh := n.agents, !n.read.IsZero() && time.Since(n.read) < namesLast
	n.mu.Unlock()
	if fresh {
		return agents, nil
	}
	rows, err := n.s.Desk.Usage(ctx, operate.UsageFilter{Since: n.s.Desk.Now().Add(-namesLook)})
	missing := noStream(err)
	if err != nil && !missing {
		return nil, err
	}
	all := map[string]bool{}
	for _, u := range rows {
		all[u.Agent] = true
	}
	agents = slices.Sorted(maps.Keys(all))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.agents, n.missing, n.read, n.others = agents, missing, time.Now(), map[string]bool{}
	return agents, nil
}

// streamsOfRequests are where a request, or what became of it, is stored.
var streamsOfRequests = []string{fetchworker.StreamRequests, wire.StreamDLQ, wire.StreamReplay, wire.StreamReview, fetchworker.StreamResults}

// lookUpTime bounds how long a name is looked for in what is stored: one that
// takes longer is believed, for a million subjects are a lot to match.
const lookUpTime = 300 * time.Millisecond

// stored reports whether anything is stored of a name: of one that no list has
// any more there may be letters, answers, acts or events.
func (n *names) stored(ctx context.Context, name string, f browse.Filter, also map[string]string) (bool, error) {
	subjects := maps.Clone(also)
	for _, stream := range streamsOfRequests {
		subjects[stream] = f.Subject(stream)
	}
	n.mu.Lock()
	is := n.others[name]
	if n.missing {
		delete(subjects, wire.StreamUsage)
	}
	n.mu.Unlock()
	if is {
		return true, nil
	}
	look, cancel := context.WithTimeout(ctx, n.s.lookUp)
	defer cancel()
	for _, stream := range slices.Sorted(maps.Keys(subjects)) {
		count, _, err := n.s.Desk.Count(look, stream, subjects[stream])
		if err != nil && (look.Err() == nil || ctx.Err() != nil) {
			return false, err
		}
		if count > 0 || err != nil {
			n.mu.Lock()
			n.others[name] = true
			n.mu.Unlock()
			return true, nil
		}
	}
	return false, nil
}

// provider refuses a provider that nothing is known of.
func (n *names) provider(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	known, err := n.providers(ctx)
	if err != nil || slices.Contains(known, name) {
		return err
	}
	is, err := n.stored(ctx, "provider "+name, browse.Filter{Provider: name}, map[string]string{
		wire.StreamUsage: "fetch.usage." + name + ".>", wire.StreamAudit: wire.AuditSubject("*", name), fetchworker.StreamEvents: wire.EventSubject("*", name),
	})
	if err != nil || is {
		return err
	}
	return unknown("provider", "provider", name, known)
}

// agent refuses an agent that has never asked for anything.
func (n *names) agent(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	known, err := n.people(ctx)
	if err != nil || slices.Contains(known, name) {
		return err
	}
	is, err := n.stored(ctx, "agent "+name, browse.Filter{Agent: name}, map[string]string{wire.StreamUsage: "fetch.usage.*." + name + ".>"})
	if err != nil || is {
		return err
	}
	return unknown("agent", "agent", name, known)
}

// word refuses what is none of the words that there are.
func word(field, what, value string, words []string) error {
	if value == "" || slices.Contains(words, value) {
		return nil
	}
	return unknown(field, what, value, words)
}

// unknown says what there is instead, and what may have been meant.
func unknown(field, what, name string, known []string) misplaced {
	return misplaced{field: field, meant: nearest.Of(name, known), mistake: &mistake{"there is no " + what + " " + strconv.Quote(name), nearest.There(name, known)}}
}

// within refuses names that are none of these: what is not read must not look
// as if it were.
func within(q url.Values, what string, known []string) error {
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if !slices.Contains(known, name) {
			m := unknown("", what, name, known)
			m.name = name
			return m
		}
	}
	return nil
}

// misplaced is a mistake in one field of a form, or in the name of one, and what
// may have been meant.
type misplaced struct {
	field, name, meant string
	*mistake
}

// advice is what to do instead, where there is no form to say it in.
func (m misplaced) advice() string {
	if m.meant == "" {
		return m.next
	}
	return "did you mean " + m.meant + "? " + m.next
}

func (m misplaced) Unwrap() error { return m.mistake }

// in says which field a mistake is in, unless it says so already.
func in(field string, err error) error {
	wrong, is := err.(*mistake) //nolint:errorlint // as it was made, one step below
	if !is {
		return err
	}
	return misplaced{field: field, mistake: wrong}
}

// checked refuses a filter whose names and words are none.
func (s *Server) checked(ctx context.Context, c chosen) error {
	if err := s.names.provider(ctx, c.Provider); err != nil {
		return err
	}
	return s.names.agent(ctx, c.Agent)
}

// form is what a filter's form offers, what was written into it, and what of
// that is wrong.
type form struct {
	Written   url.Values
	Providers []string
	Agents    []string
}

// fault is a mistake as a form shows it, beside its field.
type fault struct {
	Field, Text, Next string
	Name              string // of a field that there is none of
	Meant             string
	Instead           string // the address with what was meant
}

// instead is an address with what was meant in it.
func (f fault) instead(q url.Values) string {
	if f.Name != "" {
		q[f.Meant] = q[f.Name]
		q.Del(f.Name)
	} else {
		q.Set(f.Field, f.Meant)
	}
	return "?" + q.Encode()
}

// Is is what was written into a field.
func (f form) Is(field string) string { return f.Written.Get(field) }

// Has reports whether a field was sent at all.
func (f form) Has(field string) bool { return f.Written.Has(field) }

// form is a form with what was written; what it cannot offer it does not.
func (s *Server) form(ctx context.Context, q url.Values) form {
	f := form{Written: q}
	f.Providers, _ = s.names.providers(ctx)
	f.Agents, _ = s.names.people(ctx)
	f.Providers, f.Agents = f.Providers[:min(len(f.Providers), namesListed)], f.Agents[:min(len(f.Agents), namesListed)]
	return f
}

func faultOf(err error, wrong *mistake) fault {
	f := fault{Text: wrong.text, Next: wrong.next}
	if at, is := err.(misplaced); is { //nolint:errorlint // as the view returned it
		f.Field, f.Name, f.Meant = at.field, at.name, at.meant
	}
	return f
}
