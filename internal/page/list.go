package page

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

const (
	rowsShown  = 100
	searchTime = 400 * time.Millisecond // for one screen; a search goes on from where it stopped
)

// list is a view of letters or items: groups by cause, then single ones.
type list struct {
	Of     string // letters, review
	Filter chosen
	Form   form
	Total  int // in the stream, whatever the filter
	Review int // of letters: how many of the same wait for a person instead
	Groups grouped
	Rows   []row
	// More is where the list goes on; Searched says that it has only been
	// searched down to there, and Down when that was stored.
	More     uint64
	Searched bool
	Down     time.Time
}

// row is a letter or item with its state, and what holds it where that is not
// its own time.
type row struct {
	browse.Found
	State string
	Why   string
	Probe bool      // Until is when that is tried
	Until time.Time // when that may end; zero: nobody knows
}

// seen makes rows of what is found, as things stand now.
func (s *Server) seen() func(browse.Found) row {
	now, holds := s.Fleet.Seen(), map[string]operate.Hold{} // the board is asked once a provider
	return func(found browse.Found) row {
		r := row{Found: found, State: now.State(found)}
		if r.State != "held" {
			return r
		}
		h, known := holds[found.Provider]
		if !known {
			h, _ = s.Fleet.Hold(found.Provider)
			holds[found.Provider] = h
		}
		r.Why, r.Until, r.Probe = s.whyHeld(h), h.Until, h.Reason == fetchworker.ReasonCircuitOpen
		return r
	}
}

// whyHeld is a hold in a few words; none: it is of some calls only.
func (s *Server) whyHeld(h operate.Hold) string {
	switch h.Reason { //nolint:exhaustive // the others are no holds
	case fetchworker.ReasonPaused:
		why := "paused by " + h.By
		if pause := s.Fleet.Provider(h.Provider, s.Desk.Now()).Control.Pause; pause != nil && pause.Reason != "" {
			why += ": " + pause.Reason
		}
		return why
	case fetchworker.ReasonCircuitOpen:
		return "the provider is down"
	case fetchworker.ReasonThrottled:
		return "the provider asked for a hold"
	case fetchworker.ReasonQuota:
		return "the quota is used up"
	case fetchworker.ReasonNoWorker:
		return "no worker serves it"
	default:
		return "a circuit is open for such calls"
	}
}

func (s *Server) letters(r *http.Request) (view, error) {
	return s.list(r, "letters", "Dead letters", wire.StreamDLQ)
}

func (s *Server) review(r *http.Request) (view, error) {
	return s.list(r, "review", "Review", wire.StreamReview)
}

func (s *Server) list(r *http.Request, of, title, stream string) (view, error) {
	f, err := s.filter(r)
	l := list{Of: of, Filter: f, Form: s.form(r.Context(), r.URL.Query())}
	if err != nil {
		return view{Name: "list", Title: title, Nav: of, Data: l}, err
	}
	if err := s.rows(r.Context(), &l, stream); err != nil {
		return view{}, err
	}
	l.Groups = s.counts.of(stream, f.Filter, l.Total)
	recall(&l, s.seen())
	return view{Name: "list", Title: title, Nav: of, Data: l}, nil
}

// Matching is how many match, as far as that is known: -1 where it is not yet.
func (l list) Matching() int {
	switch {
	case l.Filter.Empty():
		return l.Total
	case l.Groups.Known:
		return l.Groups.Count + l.Groups.Unreadable
	case len(l.Rows) == 0 && l.More == 0:
		return 0
	}
	return -1
}

// Button is what a button says that begins an act: on how many, and whose.
func (l list) Button(act string) string { return button(act, l.Matching(), l.Filter) }

func button(act string, n int, f chosen) string {
	many := "those that match"
	switch {
	case n > 1 && f.Empty():
		many = "all " + num(n)
	case n >= 0:
		many = num(n)
	}
	if f.Agent != "" {
		many += " of " + f.Agent
	}
	if act == operate.ActReplay {
		many += " now"
	}
	return title(act) + " " + many + "…"
}

// rows fills a screen of single ones, the newest first.
func (s *Server) rows(ctx context.Context, l *list, stream string) error {
	edge, err := s.Desk.Edge(ctx, stream)
	if err != nil {
		return err
	}
	l.Total = int(min(edge.Messages, 1<<40)) // of a stream, which holds nothing else
	if l.Filter.Before > 0 {
		edge.Sequence = min(edge.Sequence, l.Filter.Before-1)
	}
	if stream == wire.StreamDLQ {
		if l.Review, err = s.count(ctx, wire.StreamReview, l.Filter); err != nil {
			return err
		}
	}
	began, seen := time.Now(), s.seen()
	for found, err := range s.Desk.WalkBack(ctx, stream, l.Filter.Coarse(edge), edge) {
		if err != nil {
			return err
		}
		if len(l.Rows) == rowsShown {
			l.More = l.Rows[len(l.Rows)-1].Sequence
			return nil
		}
		if time.Since(began) > searchTime {
			l.More, l.Searched, l.Down = found.Sequence+1, true, found.StoredAt
			return nil
		}
		if l.Filter.Selects(found) {
			l.Rows = append(l.Rows, seen(found))
		}
	}
	return nil
}

// count is how many a stream has of a filter's provider, operation, agent and id,
// whatever else it chooses.
func (s *Server) count(ctx context.Context, stream string, f chosen) (n int, err error) {
	if f.Provider+f.Operation+f.Agent+f.ID == "" { // the server goes through all for any pattern
		edge, err := s.Desk.Edge(ctx, stream)
		return int(min(edge.Messages, 1<<40)), err
	}
	n, _, err = s.Desk.Count(ctx, stream, f.Subject(stream))
	return n, err
}

// recall goes on with what the count has met where the search had no time to
// come to it: twelve among a million are seen without searching on.
func recall(l *list, seen func(browse.Found) row) {
	if !l.Searched || !l.Groups.Known {
		return
	}
	all := l.Groups.met == len(l.Groups.newest)
	for i, found := range slices.Backward(l.Groups.newest) {
		if found.Sequence >= l.More {
			continue
		}
		l.Rows = append(l.Rows, seen(found))
		l.More, l.Down = found.Sequence, found.StoredAt
		if len(l.Rows) == rowsShown {
			l.Searched, all = false, all && i == 0
			break
		}
	}
	if all {
		l.More, l.Searched = 0, false
	}
}

// counts keeps the histograms that somebody looks at: to count a million takes
// its time, and is done once for all who watch.
type counts struct {
	s *Server

	mu    sync.Mutex
	jobs  map[countKey]*counting
	turn  chan struct{} // one is counted at a time
	queue int           // how many wait for their turn
}

type countKey struct {
	stream string
	filter browse.Filter
}

// counting is a histogram on its way, and the one before.
type counting struct {
	running bool
	read    int
	of      int
	done    *operate.Histogram
	newest  []browse.Found // that it met, without their bodies
	met     int
	at      time.Time // when done was done
	took    time.Duration
	asked   time.Time
}

// grouped is a histogram as far as it is known.
type grouped struct {
	Bars       []operate.GroupCount
	Count      int
	Unreadable int
	Known      bool // Bars are of a whole count
	Running    bool
	Read, Of   int
	At         time.Time

	newest []browse.Found
	met    int
}

func newCounts(s *Server) *counts {
	return &counts{s: s, jobs: map[countKey]*counting{}, turn: make(chan struct{}, 1)}
}

const (
	countLasts = 2 * time.Second  // a count that took no time is believed for so long
	countKept  = 2 * time.Minute  // nobody asks any more
	countSeen  = 10 * time.Second // who watches asks each two; a count that nobody watches makes way
	countMost  = 64               // histograms
	countTime  = 10 * time.Minute // of one
)

// of is the histogram of a filter, begun now if there is none.
func (c *counts) of(stream string, f browse.Filter, total int) grouped {
	f.Since = f.Since.Truncate(time.Minute) // how long ago moves on with every look
	f.Until = f.Until.Truncate(time.Minute)
	key := countKey{stream, f}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, j := range c.jobs {
		if !j.running && time.Since(j.asked) > countKept {
			delete(c.jobs, k)
		}
	}
	j := c.jobs[key]
	if j == nil {
		if len(c.jobs) >= countMost {
			return grouped{}
		}
		j = &counting{}
		c.jobs[key] = j
	}
	j.asked = time.Now()
	// One that took long is not begun anew at once.
	if !j.running && (j.done == nil || time.Since(j.at) > countLasts+5*j.took) {
		j.running, j.read, j.of = true, 0, total
		c.s.work.Go(func() { c.count(key, j) })
	}
	g := grouped{Running: j.running, Read: j.read, Of: j.of}
	if j.done != nil {
		g.Known, g.At, g.newest, g.met = true, j.at, j.newest, j.met
		g.Bars, g.Count, g.Unreadable = j.done.Bars(), j.done.Count, j.done.Unreadable
	}
	return g
}

func (c *counts) count(key countKey, j *counting) {
	ctx, cancel := context.WithTimeout(c.s.running, countTime)
	defer cancel()
	defer func() {
		c.mu.Lock()
		j.running = false
		c.mu.Unlock()
	}()
	c.waits(1)
	select {
	case c.turn <- struct{}{}:
		c.waits(-1)
		defer func() { <-c.turn }()
	case <-ctx.Done():
		c.waits(-1)
		return
	}
	if c.unwanted(j, 0) {
		return
	}
	began := time.Now()
	edge, err := c.s.Desk.Edge(ctx, key.stream)
	if err != nil {
		return // the next look begins anew
	}
	var h operate.Histogram
	var newest []browse.Found
	read, met := 0, 0
	for found, err := range c.s.Desk.Walk(ctx, key.stream, key.filter.Coarse(edge), edge) {
		if err != nil {
			return
		}
		if read++; read%1000 == 0 && c.unwanted(j, read) {
			return // whoever asks again begins it anew
		}
		if key.filter.Selects(found) {
			h.Add(found)
			met++
			found.Body, found.History = nil, nil
			if newest = append(newest, found); len(newest) >= 2*rowsShown {
				newest = slices.Delete(newest, 0, rowsShown)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	j.done, j.newest, j.met, j.at, j.took = &h, newest, met, time.Now(), time.Since(began)
}

func (c *counts) waits(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue += n
}

// unwanted notes how far a count is, and reports whether it should end: nobody
// watches it, and others wait, or nobody has for long.
func (c *counts) unwanted(j *counting, read int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	j.read = read
	idle := time.Since(j.asked)
	return idle > countKept || idle > countSeen && c.queue > 0
}
