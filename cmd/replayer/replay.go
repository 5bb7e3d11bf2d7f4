package main

import (
	"context"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/operate"

	"github.com/spf13/cobra"
)

func (c *cli) cmdReplay() *cobra.Command {
	s, sign, p := &selection{}, &signature{}, &pace{}
	cmd := &cobra.Command{
		Use:   "replay [[AGENT/]ID]",
		Short: "Send dead letters back to work now instead of when due",
		Long: `Make dead letters due now; the running replayers release them like any other,
within the provider's permits. Letters that are due already go by themselves.

A provider that is paused or whose circuit is open is refused: its letters go by
themselves as soon as it is open again. It may be interrupted, or killed, and
run again: nothing is done twice.`,
		Example: `  replayer replay --provider fmp --class throttled --dry-run
  replayer replay --all --rate 5/s --canary 20 --min-success 0.9
  replayer replay alice/q-17`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.bulk(cmd, s, args, p, func(b *bulk) {
				operator := operate.NewOperator(b.l.js, b.l.log, sign.signed(b.l))
				b.verb, b.past, b.stream = "replay", "replayed", fetchworker.StreamDLQ
				b.work, b.refuseShut = true, true
				b.skip = func(f browse.Found) bool { return !f.NotBefore.After(b.edge.At) }
				b.act = func(ctx context.Context, f browse.Found) (operate.Fate, error) {
					return operator.ReplayNow(ctx, f, b.edge.At)
				}
			})
		},
	}
	s.flags(cmd)
	p.flags(cmd, s, true)
	sign.flags(c, cmd, false)
	return cmd
}

// bulk connects and runs a bulk act.
func (c *cli) bulk(cmd *cobra.Command, s *selection, args []string, p *pace, set func(*bulk)) error {
	if err := s.resolve(args, time.Now()); err != nil {
		return err
	}
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	f, err := l.fleet(ctx)
	if err != nil {
		return err
	}
	defer f.Close()
	b := &bulk{c: c, l: l, fleet: f, selection: s, options: *p}
	set(b)
	return b.run(ctx)
}
