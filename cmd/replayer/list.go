package main

import (
	"bufio"
	"errors"
	"io"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

func (c *cli) cmdList() *cobra.Command {
	s := &selection{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters",
		Long:  "List the dead letters: failures waiting for their retry, and parked requests.",
		Example: `  replayer list --provider fmp --since 2h
  replayer list --class throttled --json | jq -r .id`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error { return c.list(cmd, s, fetchworker.StreamDLQ) }),
	}
	s.flags(cmd)
	return cmd
}

// list writes what a selection matches as a table or as JSON lines.
func (c *cli) list(cmd *cobra.Command, s *selection, stream string) error {
	return c.stream(cmd, s, stream, func(out io.Writer) sink {
		if c.json {
			return jsonSink(out, func(l letterLine, _ browse.Found) any { return l })
		}
		t := terminal.NewTable(out, letterColumns...)
		return sink{func(l letterLine, _ browse.Found, now time.Time) error { return t.Row(l.row(now)...) }, t.Flush}
	})
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
	for found, walkErr := range l.Walk(ctx, stream, s.filter, edge) {
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
		return nothing("widen the filters; replayer status shows what there is", "nothing matched")
	}
	return nil
}
