package main

import (
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
			return c.bulk(cmd, s, args, p, sign, operate.ActReplay, "replayed", func(*bulk) {})
		},
	}
	s.flags(cmd)
	p.flags(cmd, s, true)
	sign.flags(c, cmd, false)
	return cmd
}
