package main

import (
	"bufio"
	"errors"
	"slices"
	"strings"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

func (c *cli) cmdEvents() *cobra.Command {
	var f operate.EventFilter
	var since, until string
	var limit int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List what happened to the providers this week",
		Long: `List the week's events, the newest first: circuits that opened and closed, holds,
thresholds of the bytes, orders, and what came to review.`,
		Example: `  replayer events --provider fmp --since 24h
  replayer events --kind circuit --limit 20`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			if f.Kind != "" && !slices.Contains(operate.Kinds(), f.Kind) {
				return misused(oneOf(f.Kind, operate.Kinds()), "--kind %q is not known", f.Kind)
			}
			if limit < 0 {
				return misused("give a number from 1, or leave it out", "--limit %d is negative", limit)
			}
			within := func(now time.Time) (err error) {
				if f.Since, err = moment("--since", since, now); err != nil {
					return err
				}
				f.Until, err = moment("--until", until, now)
				return err
			}
			if err := within(time.Now()); err != nil {
				return err
			}
			ctx, l, done, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if err := within(l.Now()); err != nil {
				return err
			}
			buffered := bufio.NewWriterSize(c.out, 64<<10)
			t := terminal.NewTable(buffered, "WHEN", "KIND", "PROVIDER", "WHAT").Fit(terminal.Width(c.out))
			count, more := 0, false
			for e, walkErr := range l.Events(ctx, f) {
				if err = walkErr; err != nil {
					break
				}
				if more = limit > 0 && count == limit; more {
					break
				}
				count++
				if c.json {
					err = encode(buffered, e)
				} else {
					err = t.Row(e.Time.UTC().Format("2006-01-02 15:04:05Z"), e.Kind, e.Provider, e.Says())
				}
				if err != nil {
					break
				}
			}
			if err := errors.Join(err, t.Flush(), buffered.Flush()); err != nil {
				return err
			}
			if more {
				c.sayf("more match: stopped at --limit %d", limit)
			}
			if count == 0 {
				return c.unmatchedHere(ctx, l, f.Provider, "", nothing("widen the filters; events are kept for a week", "nothing matched"))
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Kind, "kind", "", "only of this `kind`: "+strings.Join(operate.Kinds(), ", "))
	flags.StringVar(&f.Provider, "provider", "", "only of this `provider`")
	flags.StringVar(&since, "since", "", "only since: a `time` as 2h, 7d or 2026-11-24T10:00:00Z")
	flags.StringVar(&until, "until", "", "only before: a `time` in the same form")
	flags.IntVar(&limit, "limit", 0, "stop after `N` events (0 = no limit)")
	completeWords(cmd, "kind", operate.Kinds())
	return cmd
}
