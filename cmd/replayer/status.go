package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wait"

	"github.com/spf13/cobra"
)

func (c *cli) cmdStatus() *cobra.Command {
	var watch bool
	var every time.Duration
	var provider string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every provider on one screen",
		Long: `Show of every provider what waits and since when, what is in flight, whether
any worker serves it, its circuit, permits, bytes, dead letters and review.
It reads the streams and the shared state, so it works with every worker down.`,
		Example: `  replayer status
  replayer status --watch
  replayer status --provider fmp --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return misused("give --every 2s or so", "--every %v is too short", every)
			}
			ctx, l, done, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			f, err := l.Fleet(ctx)
			if err != nil {
				return err
			}
			defer f.Close()
			if !watch {
				return c.status(ctx, l, f, provider, "")
			}
			return c.watchStatus(ctx, l, f, provider, every)
		}),
	}
	cmd.Flags().StringVar(&provider, "provider", "", "only this `provider`")
	cmd.Flags().BoolVar(&watch, "watch", false, "refresh in place until Ctrl-C")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how often --watch refreshes")
	return cmd
}

// watchStatus refreshes until Ctrl-C, which is how it is meant to end.
func (c *cli) watchStatus(ctx context.Context, l *link, f *operate.Fleet, provider string, every time.Duration) error {
	const home = "\x1b[H\x1b[2J"
	before := ""
	if terminal.Is(c.out) && !c.json {
		before = home
	}
	for {
		err := c.status(ctx, l, f, provider, before)
		var none *failure
		if errors.As(err, &none) && none.code == exitNothing {
			c.sayf("%v", err) // it may come
			err = nil
		}
		if err == nil {
			err = wait.For(ctx, every)
		}
		if ctx.Err() != nil && c.refused.Load() == nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *cli) status(ctx context.Context, l *link, f *operate.Fleet, provider, before string) error {
	survey, err := f.Survey(ctx)
	if err != nil {
		return err
	}
	providers := survey.Providers
	if provider != "" { // also one that nobody serves
		providers, survey.Unserved = slices.DeleteFunc([]string{provider}, func(p string) bool { return !survey.Knows(p) }), operate.Unserved{}
	}
	if len(providers) == 0 && len(survey.Unserved.Names) == 0 {
		return nothing("a worker with a provider's key set, or a request, makes it known", "no provider is known here")
	}
	inFlight, err := f.InFlight(ctx)
	if err != nil {
		return err
	}
	var lines []operate.Status
	for _, p := range providers {
		line, err := f.Status(ctx, p, inFlight)
		if err != nil {
			return err
		}
		if line.BytesLimit == 0 {
			line.BytesLimit = c.ownBytesLimit(p)
		}
		line.BytesOutAt = operate.RunsOut(line.BytesUsed, line.BytesLimit, line.At)
		lines = append(lines, line)
	}
	if skew := l.Skew(); skew.Abs() > time.Second && before == "" {
		c.sayf("note: the clock of this machine is %s off the server's, which is the one that counts", terminal.Short(skew.Abs()))
	}
	replayers, err := l.Replayers(ctx)
	if err != nil {
		return err
	}
	if c.json {
		for _, line := range lines {
			line.Replayers = replayers
			if err := c.object(line); err != nil {
				return err
			}
		}
		if len(survey.Unserved.Names) > 0 {
			return c.object(struct {
				Unserved operate.Unserved `json:"unserved"`
			}{survey.Unserved})
		}
		return nil
	}
	return c.printf("%s%s", terminal.Ours(before), terminal.Ours(c.screen(lines, replayers, l.Now())+unservedLine(survey.Unserved)))
}
