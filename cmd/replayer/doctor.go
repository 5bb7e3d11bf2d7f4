package main

import (
	"errors"
	"strings"

	"fetchworker/internal/doctor"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

// errUnwell is what doctor ends with when something is the matter.
var errUnwell = errors.New("not well")

func (c *cli) cmdDoctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [PROVIDER]",
		Short: "Say whether all is well, or what is the matter and what cures it",
		Long: `Judge the fleet, or one provider: are requests flowing, are they succeeding, is
what we see fresh? Where not, the likely cause and the command that cures it.
Exit code 0: well, 1: not.`,
		Example: `  replayer doctor
  replayer doctor fmp --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			provider := strings.Join(args, "")
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
			if provider != "" {
				if err := c.known(ctx, f, provider); err != nil {
					return err
				}
			}
			d, err := doctor.Examine(ctx, l.Desk, f, provider)
			if err != nil {
				return err
			}
			if err := c.diagnosis(d); err != nil {
				return err
			}
			if !d.Well {
				return errUnwell
			}
			return nil
		}),
		ValidArgsFunction: c.completeProviders,
	}
}

func (c *cli) diagnosis(d doctor.Diagnosis) error {
	if c.json {
		return c.object(d)
	}
	var b strings.Builder
	verdict := c.paint(green, "well")
	if !d.Well {
		verdict = c.paint(red, "not well")
	}
	b.WriteString(verdict + "\n")
	for _, q := range []struct {
		name   string
		answer doctor.Answer
	}{{"flowing", d.Flowing}, {"succeeding", d.Succeeding}, {"fresh", d.Fresh}} {
		yes := c.paint(green, "yes")
		if !q.answer.Well {
			yes = c.paint(red, "no")
		}
		b.WriteString("  " + q.name + ": " + yes + ", " + terminal.Visible(q.answer.Says) + "\n")
	}
	for _, f := range d.Told() {
		name := string(f.Cause)
		if f.Provider != "" {
			name = f.Provider + " " + name
		}
		if colour := yellow; f.Ill {
			name = c.paint(red, terminal.Visible(name))
		} else {
			name = c.paint(colour, terminal.Visible(name))
		}
		b.WriteString("\n" + name + "\n  " + terminal.Visible(f.Says) + "\n  cure: " + terminal.Visible(f.Cure) + "\n")
	}
	return c.printf("%s", terminal.Ours(b.String()))
}
