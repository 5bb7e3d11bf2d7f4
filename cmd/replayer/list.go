package main

import (
	"bufio"
	"errors"
	"io"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wire"

	"github.com/spf13/cobra"
)

func (c *cli) cmdList() *cobra.Command {
	s := &selection{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters",
		Long: `List the dead letters, the newest first: failures waiting for their retry, and
parked requests. --groups counts them by what they failed of instead.`,
		Example: `  replayer list --provider fmp --since 2h
  replayer list --groups
  replayer list --class throttled --json | jq -r .id`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error { return c.list(cmd, s, wire.StreamDLQ) }),
	}
	s.flags(cmd)
	s.order(cmd)
	return cmd
}

// order adds the flags of a list.
func (s *selection) order(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.oldest, "oldest-first", false, "the oldest first")
	cmd.Flags().BoolVar(&s.grouped, "groups", false, "count by what they failed of, instead of listing")
}

// list writes what a selection matches as a table or as JSON lines.
func (c *cli) list(cmd *cobra.Command, s *selection, stream string) error {
	if s.grouped {
		return c.stream(cmd, s, stream, c.histogram)
	}
	return c.stream(cmd, s, stream, func(out io.Writer) sink {
		if c.json {
			return jsonSink(out, func(l letterLine, _ browse.Found) any { return l })
		}
		width := terminal.Width(c.out)
		t := terminal.NewTable(out, letterColumns...).Fit(width)
		return sink{func(l letterLine, _ browse.Found, now time.Time) error { return t.Row(l.row(now, width)...) }, t.Flush}
	})
}

// histogram counts what a selection matches by its groups.
func (c *cli) histogram(out io.Writer) sink {
	var h operate.Histogram
	return sink{
		func(_ letterLine, f browse.Found, _ time.Time) error { h.Add(f); return nil },
		func() error {
			if h.Count == 0 {
				return nil
			}
			if !c.json {
				return c.groups(out, h)
			}
			for _, g := range h.Bars() {
				if err := encode(out, g); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// sink is where a stream of letters is written.
type sink struct {
	write func(letterLine, browse.Found, time.Time) error
	flush func() error
}

// jsonSink writes one object a line.
func jsonSink(out io.Writer, object func(letterLine, browse.Found) any) sink {
	return sink{
		func(l letterLine, f browse.Found, _ time.Time) error { return encode(out, object(l, f)) },
		func() error { return nil },
	}
}

// stream writes what a selection matches as it is read: nothing is held in
// memory, and nothing is left out unless --limit says so, and then it is told.
func (c *cli) stream(cmd *cobra.Command, s *selection, stream string, open func(io.Writer) sink) error {
	if err := s.resolve(nil, time.Now()); err != nil {
		return err
	}
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	if err := s.resolve(nil, l.Now()); err != nil { // how long ago is by the server's clock
		return err
	}
	fleet, err := l.Fleet(ctx)
	if err != nil {
		return err
	}
	defer fleet.Close()
	edge, err := l.Edge(ctx, stream)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(c.out, 64<<10)
	to, seen := open(buffered), fleet.Seen()
	count, more := 0, false
	walk := l.WalkBack
	if s.oldest {
		walk = l.Walk
	}
	for found, walkErr := range walk(ctx, stream, s.filter, edge) {
		if err = walkErr; err != nil {
			break
		}
		if more = s.limit > 0 && count == s.limit; more {
			break
		}
		count++
		if err = to.write(lineOf(found, seen), found, seen.Now); err != nil {
			break
		}
	}
	// What was read before an error is shown all the same.
	if err := errors.Join(err, to.flush(), buffered.Flush()); err != nil {
		return err
	}
	if more {
		c.sayf("more match: stopped at --limit %d", s.limit)
	}
	if count == 0 {
		return c.unmatched(ctx, l, fleet, s.filter.Provider, s.filter.Agent, errUnmatched())
	}
	return nil
}
