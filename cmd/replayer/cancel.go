package main

import (
	"fetchworker/internal/operate"

	"github.com/spf13/cobra"
)

func (c *cli) cmdCancel() *cobra.Command {
	s, sign, p := &selection{}, &signature{}, &pace{}
	cmd := &cobra.Command{
		Use:   "cancel [[AGENT/]ID]",
		Short: "End dead letters: their requests are cancelled for good",
		Long: `Give the requests of dead letters, parked or waiting for their retry, their final
answer: failed, cancelled, with the reason. A copy that is at work just now is not
called any more; a call that has begun ends, and its answer is dropped. What is in
review is discarded there, and what is still queued its agent can cancel.

It may be interrupted, or killed, and run again: nothing is done twice.`,
		Example: `  replayer cancel --provider fmp --agent alice --dry-run
  replayer cancel --provider fmp --class circuit_open --reason "the job was stopped"
  replayer cancel alice/q-17 --reason "asked by mistake"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.bulk(cmd, s, args, p, sign, operate.ActCancel, "cancelled", func(*bulk) {})
		},
	}
	s.flags(cmd)
	p.flags(cmd, s, false)
	sign.flags(c, cmd, true)
	return cmd
}
