package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/spf13/cobra"
)

func (c *cli) cmdReview() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "review",
		Short: "Decide on what the fleet could not answer",
		Long: `Decide on requests that no retry can help: exhausted, refused by the provider,
poison, or broken. Each waits until a person requeues or discards it.`,
		Example: `  replayer review list --provider fmp
  replayer review requeue alice/q-17 --reason "symbol list fixed"
  replayer review discard --class poison --reason "crashes the parser"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.cmdReviewList(), c.cmdReviewShow(), c.cmdRequeue(), c.cmdDiscard(), c.cmdExport())
	return cmd
}

func (c *cli) cmdReviewList() *cobra.Command {
	s := &selection{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what waits for a decision",
		Example: `  replayer review list --provider fmp --since 7d
  replayer review list --json | wc -l`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error { return c.list(cmd, s, wire.StreamReview) }),
	}
	s.flags(cmd)
	s.order(cmd)
	return cmd
}

func (c *cli) cmdReviewShow() *cobra.Command {
	s := &selection{}
	cmd := &cobra.Command{
		Use:     "show [AGENT/]ID",
		Short:   "Show one review item: request, attempts, answer so far",
		Example: `  replayer review show alice/q-17`,
		Args:    cobra.ExactArgs(1),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			return c.show(cmd, s, args, wire.StreamReview)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&s.filter.Provider, "provider", "", "of this `provider`")
	f.StringVar(&s.filter.Operation, "operation", "", "of this `operation`")
	f.StringVar(&s.filter.Agent, "agent", "", "of this `agent`")
	return cmd
}

func (c *cli) cmdRequeue() *cobra.Command {
	s, sign, p := &selection{}, &signature{}, &pace{}
	var edit, keepDeadline bool
	cmd := &cobra.Command{
		Use:   "requeue [[AGENT/]ID] --reason …",
		Short: "Give requests in review a new life",
		Long: `Start a new generation of requests in review: no failures counted, a whole life
again, no deadline unless --keep-deadline, due at once. An item whose request
has moved on meanwhile is only deleted. It may be interrupted, or killed, and
run again: nothing is requeued twice.`,
		Example: `  replayer review requeue alice/q-17 --reason "symbol list fixed"
  replayer review requeue alice/q-17 --edit --reason "wrong symbol"
  replayer review requeue --provider fmp --since 2h --rate 5/s --canary 20 --reason "outage over"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.bulk(cmd, s, args, p, sign, operate.ActRequeue, "requeued", func(b *bulk) {
				b.edit, b.task.KeepDeadline = edit, keepDeadline
			})
		},
	}
	s.flags(cmd)
	p.flags(cmd, s, true)
	cmd.Flags().BoolVar(&edit, "edit", false, "edit the request in $EDITOR first; the audit keeps the original")
	cmd.Flags().BoolVar(&keepDeadline, "keep-deadline", false, "keep the request's deadline")
	sign.flags(c, cmd, true)
	return cmd
}

func (c *cli) cmdDiscard() *cobra.Command {
	s, sign, p := &selection{}, &signature{}, &pace{}
	cmd := &cobra.Command{
		Use:   "discard [[AGENT/]ID] --reason …",
		Short: "End requests in review for good",
		Long: `Answer requests in review with "failed discarded", which is final for good, and
delete the items. The agents read the reason. An item whose request has moved on
meanwhile is only deleted.`,
		Example: `  replayer review discard alice/q-17 --reason "the producer is fixed"
  replayer review discard --class poison --dry-run --reason "crashes the parser"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.bulk(cmd, s, args, p, sign, operate.ActDiscard, "discarded", func(*bulk) {})
		},
	}
	s.flags(cmd)
	p.flags(cmd, s, false)
	sign.flags(c, cmd, true)
	return cmd
}

// revise opens an editor on a request and returns what it has become, which
// is a request that the wire accepts. The id stays what the subject says.
func (c *cli) revise(ctx context.Context, f browse.Found) ([]byte, error) {
	editor := c.getenv("VISUAL")
	if editor == "" {
		editor = c.getenv("EDITOR")
	}
	if editor == "" {
		return nil, misused("set EDITOR, as EDITOR=vi", "--edit needs $EDITOR, and it is not set")
	}
	file, err := os.CreateTemp("", "fetch-request-*.json")
	if err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	name := file.Name()
	defer func() { _ = os.Remove(name) }() // a left-over is harmless
	_, err = file.Write(f.Body)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	// As git does: $EDITOR may have arguments of its own.
	edit := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "edit", name)
	edit.Stdin, edit.Stdout, edit.Stderr = c.in, c.errs, c.errs
	if err := edit.Run(); err != nil {
		return nil, failed("nothing was changed; set EDITOR to an editor that works", "editor %s: %w", editor, err)
	}
	body, err := os.ReadFile(name) //nolint:gosec // the file made above
	if err != nil {
		return nil, fmt.Errorf("edit: %w", err)
	}
	switch body, err = operate.Edited(f, body); {
	case errors.Is(err, operate.ErrUnchanged):
		return nil, failed("leave --edit out to requeue it as it is", "%w", err)
	case err != nil:
		return nil, failed("nothing was changed; run it again and correct that", "%w", err)
	}
	return body, nil
}

func (c *cli) cmdExport() *cobra.Command {
	s := &selection{oldest: true}
	format := "ndjson"
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write review items with their requests as NDJSON or CSV",
		Example: `  replayer review export --provider fmp > items.ndjson
  replayer review export --format csv --since 7d > items.csv`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			switch format {
			case "ndjson":
				return c.stream(cmd, s, wire.StreamReview, exportJSON)
			case "csv":
				return c.stream(cmd, s, wire.StreamReview, exportCSV)
			default:
				return misused("give ndjson or csv", "--format %q is not known", format)
			}
		}),
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&format, "format", format, "`ndjson` or csv")
	completeWords(cmd, "format", []string{"ndjson", "csv"})
	return cmd
}
