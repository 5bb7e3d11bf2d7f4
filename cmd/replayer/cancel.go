package main

import (
	"fetchworker/internal/operate"

	"github.com/spf13/cobra"
)

func (c *cli) cmdCancel() *cobra.Command {
	s, sign, p := &selection{queued: true}, &signature{}, &pace{}
	cmd := &cobra.Command{
		Use:   "cancel [[AGENT/]ID]",
		Short: "Cancel requests for good: queued, at work, or dead letters",
		Long: `Give requests their final answer: failed, cancelled, with the reason. They may
wait in the queue (class queued), be at work just now, or be dead letters that are
parked or wait for their retry. What is at work is not called any more; a call that
has begun ends, and its answer is dropped. What is in review is discarded there.

--since and --until choose what is queued by when it was asked. It may be
interrupted, or killed, and run again: nothing is done twice.`,
		Example: `  replayer cancel --provider fmp --agent alice --dry-run
  replayer cancel --provider fmp --agent alice --class queued --reason "a loop ran wild"
  replayer cancel --provider fmp --class circuit_open --reason "the job was stopped"
  replayer cancel alice/q-17 --reason "asked by mistake"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.bulk(cmd, s, args, p, sign, operate.ActCancel, "cancelled", func(b *bulk) { b.task.Queued = true })
		},
	}
	s.flags(cmd)
	p.flags(cmd, s, false)
	sign.flags(c, cmd, true)
	return cmd
}
