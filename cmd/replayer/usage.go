package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

func (c *cli) cmdUsage() *cobra.Command {
	var f operate.UsageFilter
	since, by := "7d", ""
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show who used which provider, and what failed",
		Long: `Show calls, bytes and answers of each agent and provider: calls that reached the
wire, for whom they were made; final answers from a call (ok), from a young body
(cached), from an old one (stale), and failed. --by cause shows the calls that
failed instead, by operation and cause. Whole UTC days are counted; the workers
write within a second, and the counters are kept for 400 days.`,
		Example: `  replayer usage
  replayer usage --since 30d --by day --provider fmp
  replayer usage --since 0d --by cause`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			if by != "" && !slices.Contains(operate.By(), by) {
				return misused(oneOf(by, operate.By()), "--by %q is not known", by)
			}
			if by == "cause" && f.Agent != "" {
				return misused("leave --agent out", "causes are not counted by agent")
			}
			if _, err := moment("--since", since, time.Now()); err != nil {
				return err
			}
			ctx, l, done, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if f.Since, err = moment("--since", since, l.Now()); err != nil {
				return err
			}
			if by == "cause" {
				return c.causes(ctx, l, f)
			}
			return c.usage(ctx, l, f, by)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&since, "since", since, "from the day of this `time` on: 7d, 0d for today, or 2026-11-24T00:00:00Z")
	flags.StringVar(&by, "by", "", "sum by `"+strings.Join(operate.By(), "|")+"` (default agent and provider)")
	flags.StringVar(&f.Provider, "provider", "", "only of this `provider`")
	flags.StringVar(&f.Agent, "agent", "", "only of this `agent`")
	completeWords(cmd, "by", operate.By())
	return cmd
}

func (c *cli) usage(ctx context.Context, l *link, f operate.UsageFilter, by string) error {
	rows, err := l.Usage(ctx, f)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return c.unmatchedHere(ctx, l, f.Provider, f.Agent, nothing("widen --since; workers count from their first call on", "nothing was used"))
	}
	columns := map[string][]string{"agent": {"AGENT"}, "provider": {"PROVIDER"}, "day": {"DAY"}, "": {"AGENT", "PROVIDER"}}[by]
	t := terminal.NewTable(c.out, append(columns, "CALLS", "BYTES", "OK", "CACHED", "STALE", "FAILED")...)
	for _, u := range operate.SumBy(rows, by) {
		if c.json {
			if err := c.object(u); err != nil {
				return err
			}
			continue
		}
		cells := slices.DeleteFunc([]string{u.Day, u.Agent, u.Provider}, func(s string) bool { return s == "" })
		cells = append(cells, whole(u.Calls), size(u.Bytes), whole(u.OK), whole(u.Cached), whole(u.Stale), whole(u.Failed))
		if err := t.Row(cells...); err != nil {
			return err
		}
	}
	return t.Flush()
}

func (c *cli) causes(ctx context.Context, l *link, f operate.UsageFilter) error {
	causes, err := l.Causes(ctx, f)
	if err != nil {
		return err
	}
	if len(causes) == 0 {
		return c.unmatchedHere(ctx, l, f.Provider, "", nothing("widen --since", "no call has failed"))
	}
	t := terminal.NewTable(c.out, "COUNT", "PROVIDER", "OPERATION", "CAUSE")
	for _, cause := range causes {
		if c.json {
			err = c.object(cause)
		} else {
			err = t.Row(whole(cause.Count), cause.Provider, cause.Operation, cause.Cause)
		}
		if err != nil {
			return err
		}
	}
	return t.Flush()
}

func whole(n int64) string { return strconv.FormatInt(n, 10) }
