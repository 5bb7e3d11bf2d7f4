package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"fetchworker"
	"fetchworker/internal/wait"
	"fetchworker/internal/wire"
)

// demoLasts is the longest a demonstration may take. It needs less than half.
const demoLasts = 55 * time.Second

var errDemoLong = errors.New("the demonstration should have ended by now")

// demo shows the service at work, in scenes that each claim something and
// check it: what is printed has been seen, and the first thing that is not
// seen ends the demonstration with an error.
//
// Only the four providers are played, from recorded answers. The rest is
// what production runs: serve, with its queue, worker and replayer.
//
// On a page's address it is shown there too, and goes on until it is
// interrupted.
func demo(ctx context.Context, stdout io.Writer, page string) error {
	if page == "" {
		return show(ctx, stdout, scenes)
	}
	return stay(ctx, stdout, scenes, page)
}

// stay is show on a page, until ctx ends.
func stay(ctx context.Context, stdout io.Writer, scenes []scene, page string) error {
	s, err := raise(ctx, stdout, page)
	if err != nil {
		return s.failed(ctx, err)
	}
	s.say("The operators' page shows all of this, live: %s\n\n", s.page)
	err = s.perform(ctx, scenes)
	if err == nil {
		s.say("\nalice and bob go on asking. The page stays at %s until Ctrl-C.\n", s.page)
		s.linger(ctx)
	}
	return errors.Join(err, s.close())
}

// linger has the agents go on asking until ctx ends.
func (s *stage) linger(ctx context.Context) {
	for n := 0; wait.For(ctx, time.Second) == nil; n++ {
		agent := []string{"alice", "alice", "bob"}[n%3]
		// One in four is not asked of the provider again.
		r := fetchworker.Request{Provider: "fmp", Operation: "quote", Params: []byte(`{"symbol":"AAPL"}`)}
		if n%4 != 0 {
			r.MaxAge = new(fetchworker.Duration)
		}
		_, _ = s.agents[agent].Submit(ctx, r) // what is not taken is not seen
	}
}

// show plays scenes on a stage of their own, and clears it away.
func show(ctx context.Context, stdout io.Writer, scenes []scene) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, demoLasts, errDemoLong)
	defer cancel()
	s, err := raise(ctx, stdout, "off")
	if err != nil {
		return s.failed(ctx, err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return s.perform(ctx, scenes)
}

// perform plays the scenes, checks the books and sums up.
func (s *stage) perform(ctx context.Context, scenes []scene) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoLasts, errDemoLong)
	defer cancel()
	s.prologue()
	for i, scene := range scenes {
		s.say("\n%d. %s\n", i+1, scene.title)
		s.begin(scene.row)
		if err := scene.play(ctx, s); err != nil {
			return s.failed(ctx, err)
		}
	}
	s.book()
	if err := s.settle(ctx); err != nil {
		return s.failed(ctx, err)
	}
	return s.table()
}

// failed is the error of a scene, with what the worker logged last: a
// demonstration that fails is looked into by somebody.
func (s *stage) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
		return errors.New("demo: interrupted")
	} else if cause != nil {
		err = errors.Join(err, cause)
	}
	s.say("\nThe worker's last words:\n%s\n", s.log)
	return fmt.Errorf("demo: not seen as promised: %w", err)
}

func (s *stage) prologue() {
	s.say(`fetchworker: a demonstration, in about twenty seconds.

The four providers are played from recorded answers, so no key and no network
are needed. The queue, the worker and the replayer are the real ones.
alice and bob are agents: they publish a request and get one final answer.

While this runs you can join in from another terminal:
  nats -s %[1]s sub 'fetch.result.>'
  nats -s %[1]s pub fetch.request.fmp.interactive.quote.you '{"params":{"symbol":"AAPL"}}'
`, s.url)
}

// row is a line of the table: what was asked under its name.
type row struct {
	name  string
	ids   []fetchworker.Identity
	calls int // that arrived at the providers
}

// begin books what comes from now on under a name.
func (s *stage) begin(name string) {
	s.book()
	for _, s.row = range s.rows {
		if s.row.name == name {
			return
		}
	}
	s.row = &row{name: name}
	s.rows = append(s.rows, s.row)
}

// book adds the calls since the last time to the row that is open.
func (s *stage) book() {
	received := s.callsReceived()
	if s.row != nil {
		s.row.calls += received - s.booked
	}
	s.booked = received
}

// settle checks the books: every request has one final answer and no more,
// and nothing is left lying anywhere but what a person must see.
func (s *stage) settle(ctx context.Context) error {
	for _, r := range s.rows {
		for _, id := range r.ids {
			finals := 0
			for _, a := range s.seen.of(id) {
				if a.Final {
					finals++
				}
			}
			if finals != 1 {
				return fmt.Errorf("%s has %d final answers", id, finals)
			}
		}
	}
	left := map[string]uint64{
		fetchworker.StreamRequests: 0, wire.StreamDLQ: 0, wire.StreamReplay: 0, wire.StreamReview: 1,
	}
	for stream, want := range left {
		err := s.until(ctx, 5*time.Second, fmt.Sprintf("%s holds %d messages", stream, want), func() (bool, error) {
			n, err := s.count(ctx, stream)
			return n == want, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// table sums up what was seen.
func (s *stage) table() error {
	s.say("\nWhat was seen:\n\n")
	w := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', tabwriter.AlignRight)
	line := func(name string, n ...int) {
		_, _ = fmt.Fprint(w, name, "\t") // what cannot be written is told by Flush
		for _, n := range n {
			_, _ = fmt.Fprint(w, n, "\t")
		}
		_, _ = fmt.Fprintln(w)
	}
	_, _ = fmt.Fprintln(w, "\trequests\tanswered\tfailed\ttold to wait\tcalls\t")
	var requests, answered, failed, waited, calls int
	for _, r := range s.rows {
		ok, bad, told := 0, 0, 0
		for _, id := range r.ids {
			for _, a := range s.seen.of(id) {
				switch {
				case a.Final && a.Status == fetchworker.StatusFailed:
					bad++
				case a.Final:
					ok++
				}
			}
			if s.seen.waited(id) {
				told++
			}
		}
		line(r.name, len(r.ids), ok, bad, told, r.calls)
		requests, answered, failed, waited, calls = requests+len(r.ids), answered+ok, failed+bad, waited+told, calls+r.calls
	}
	line("in all", requests, answered, failed, waited, calls)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	s.say("\nEvery request got exactly one final answer, and nothing is left in a queue.\n"+
		"One failure waits for a person: the replayer shows it and sends it again.\n"+
		"Took %s.\n", seconds(time.Since(s.raised)))
	return nil
}

// seconds writes a duration as a person reads it.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
