package main

import (
	"context"
	"errors"
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
	o, err := f.Overview(ctx, provider)
	if err != nil {
		return err
	}
	if len(o.Providers)+len(o.Unserved.Names)+len(o.Keyless) == 0 {
		if provider != "" {
			return c.known(ctx, f, provider)
		}
		return nothing("a worker with a provider's key set, or a request, makes it known", "no provider is known here")
	}
	for i := range o.Providers {
		s := &o.Providers[i]
		if s.BytesLimit == 0 {
			s.BytesLimit = c.ownBytesLimit(s.Provider)
		}
		s.BytesOutAt = operate.RunsOut(s.BytesUsed, s.BytesLimit, s.At)
	}
	if o.Skew.Abs() > time.Second && before == "" {
		c.sayf("note: the clock of this machine is %s off the server's, which is the one that counts", terminal.Short(o.Skew.Abs()))
	}
	if c.json {
		return c.statusLines(o)
	}
	return c.printf("%s%s", terminal.Ours(before), terminal.Ours(c.screen(o.Providers, o.Replayers, l.Now())+keylessLine(o.Keyless)+unservedLine(o.Unserved)))
}

func (c *cli) statusLines(o operate.Overview) error {
	for _, line := range o.Providers {
		if err := c.object(line); err != nil {
			return err
		}
	}
	if len(o.Keyless) > 0 {
		if err := c.object(keylessJSON{o.Keyless}); err != nil {
			return err
		}
	}
	if len(o.Unserved.Names) > 0 {
		return c.object(struct {
			Unserved operate.Unserved `json:"unserved"`
		}{o.Unserved})
	}
	return nil
}

// keylessJSON is the line of providers that no worker has a key for.
type keylessJSON struct {
	NoKey map[string]string `json:"no_key"` // the variable that would hold it, by provider
}
