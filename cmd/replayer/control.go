package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

func (c *cli) cmdPause() *cobra.Command {
	s, length, all := &signature{}, "", false
	cmd := &cobra.Command{
		Use:   "pause PROVIDER… | --all --for 1h --reason …",
		Short: "Stop all calls to providers for a time",
		Long: `Stop all calls to one provider, several, or all, fleet-wide and within a second.
Requests are answered from stale bodies where they allow it, else they wait in
the DLQ and go by themselves when the pause ends.`,
		Example: `  replayer pause fmp --for 1h --reason "vendor maintenance"
  replayer pause --all --for 1h --reason "the network moves"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := span(length)
			if err != nil || d <= 0 {
				return misused("give how long, as --for 30m, 1h or 2d", "pause needs --for, and %q is no such time", length)
			}
			return c.control(cmd, args, all, s, func(l *link, o *operate.Order) string {
				o.Action, o.Until = operate.ActPause, l.Now().Add(d).UTC()
				return fmt.Sprintf("%s is paused until %s (for %s)", o.Provider, terminal.Clock(o.Until, l.Now()), terminal.Short(d))
			})
		},
		ValidArgsFunction: c.completeProviders,
	}
	cmd.Flags().StringVar(&length, "for", "", "how `long`, as 30m, 1h or 2d (required)")
	cmd.Flags().BoolVar(&all, "all", false, "every provider that is served, or has been")
	s.flags(c, cmd, true)
	return cmd
}

func (c *cli) cmdResume() *cobra.Command {
	s, all := &signature{}, false
	cmd := &cobra.Command{
		Use:   "resume PROVIDER… | --all --reason …",
		Short: "End a pause, close an open circuit, lift a hold",
		Long: `End a pause, close an open circuit and lift a hold after a 429, of one provider,
several, or all. What was parked for any of these, for a quota or for a key goes
within ten seconds. If the provider is still down its circuit opens again after a
few failures, and no request is harmed.`,
		Example: `  replayer resume fmp --reason "vendor says fixed"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.control(cmd, args, all, s, func(_ *link, o *operate.Order) string {
				o.Action = operate.ActResume
				return o.Provider + " is resumed: no pause, circuit closed, no hold"
			})
		},
		ValidArgsFunction: c.completeProviders,
	}
	cmd.Flags().BoolVar(&all, "all", false, "every provider that is served, or has been")
	s.flags(c, cmd, true)
	return cmd
}

func (c *cli) cmdLimit() *cobra.Command {
	s, length, yes := &signature{}, "", false
	cmd := &cobra.Command{
		Use:   "limit PROVIDER LIMITS --reason …",
		Short: "Change a provider's rate limits, live and fleet-wide",
		Long: `Change a provider's rate limits, live and fleet-wide, for good or --for a time.
LIMITS are windows such as 60/min,2/s or 100/24h; "unlimited" takes them off,
"default" gives every worker the limits of its own configuration back. Calls that
were made already count in the new windows, so it may begin slowly. More than is
configured is asked for once more.`,
		Example: `  replayer limit fmp 60/min,2/s --for 2h --reason "vendor asks us to slow down"
  replayer limit fmp default --reason "back to normal"`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if number, _, _ := strings.Cut(args[1], "/"); strings.Trim(number, "0.") == "" {
				return misused("replayer pause stops all calls, and "+`"unlimited"`+" takes the limits off", "a limit of %q could mean either", args[1])
			}
			limits, err := ledger.ParseLimits(args[1])
			if args[1] != "default" && err != nil {
				return misused(`write the limits as 60/min or 60/min,2/s, "unlimited" or "default"`, "%w", err)
			}
			var d time.Duration
			if length != "" {
				if d, err = span(length); err != nil || d <= 0 || args[1] == "default" {
					return misused("give how long, as --for 30m, 1h or 2d, and none with default", "--for %q cannot be used here", length)
				}
			}
			c.bold = yes
			return c.control(cmd, args[:1], false, s, func(l *link, o *operate.Order) string {
				o.Action, o.Act.Limits, o.Limits = operate.ActLimit, limits.String(), limits
				if args[1] == "default" {
					o.Act.Limits, o.Reset = "default", true
					return o.Provider + " has the limits of its workers' configuration again"
				}
				text := o.Provider + " is limited to " + o.Act.Limits
				if d > 0 {
					o.Until = l.Now().Add(d).UTC()
					text += " until " + terminal.Clock(o.Until, l.Now())
				}
				if len(limits) > 0 {
					text += "; what was called already counts in its windows, so it may begin slowly"
				}
				return text
			})
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return []string{"unlimited", "default"}, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completeProviders(cmd, args, word)
	}
	cmd.Flags().StringVar(&length, "for", "", "how `long`, as 30m, 1h or 2d (default for good)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask, also where it is more than is configured")
	s.flags(c, cmd, true)
	return cmd
}

func (c *cli) cmdRetire() *cobra.Command {
	s := &signature{}
	cmd := &cobra.Command{
		Use:   "retire PROVIDER --reason …",
		Short: "Give up a provider that nobody will serve again",
		Long: `Delete the consumers of a provider that is gone for good, so that its requests
are refused at once instead of waiting for a worker, those whose retries wait
too. Not while a live worker serves it. A worker that serves it later brings it
back.`,
		Example: `  replayer retire polygon --reason "contract ended"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.control(cmd, args, false, s, func(_ *link, o *operate.Order) string {
				o.Action = operate.ActRetire
				return o.Provider + " is retired: what waits for it and what is new is answered provider_not_configured; its review items stay"
			})
		},
		ValidArgsFunction: c.completeProviders,
	}
	s.flags(c, cmd, true)
	return cmd
}

// prepare completes an order, and returns what to say when it is done.
type prepare func(l *link, o *operate.Order) (done string)

// control does an act on providers: all checked first, then each recorded, done
// and announced.
func (c *cli) control(cmd *cobra.Command, providers []string, all bool, s *signature, complete prepare) error {
	if all == (len(providers) > 0) {
		return misused("name one or more as replayer status shows them, or --all", "%s needs providers, or --all, and not both", cmd.CommandPath())
	}
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	fleet, err := l.Fleet(ctx)
	if err != nil {
		return err
	}
	defer fleet.Close()
	if all {
		if providers, err = fleet.Served(ctx); err != nil {
			return err
		}
		if len(providers) == 0 {
			return nothing("a worker with a provider's key set makes one", "no provider is served, or has been")
		}
	} else if err := c.known(ctx, fleet, providers...); err != nil {
		return err
	}
	orders := make([]operate.Order, len(providers))
	texts := make([]string, len(providers))
	for i, p := range providers {
		orders[i] = operate.Order{Act: operate.Act{Provider: p}}
		texts[i] = complete(l, &orders[i])
		if err := c.may(ctx, fleet, orders[i]); err != nil {
			return err
		}
	}
	for i, o := range orders {
		err := l.Control(ctx, s.signed(l), o, func(err error) {
			c.sayf("it is done, but the event that tells others of it could not be stored: %v", err)
		})
		if err != nil {
			return err
		}
		if o.Action == operate.ActResume {
			texts[i] += c.parked(ctx, fleet, o.Provider)
		}
		if c.json {
			err = c.object(controlLine{o.Action, o.Provider, o.Until, o.Act.Limits, s.by, s.reason})
		} else {
			err = c.printf("%s\n", texts[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parked says what a resumed provider's letters will do; nothing where there
// are none, or they could not be counted: it is resumed all the same.
func (c *cli) parked(ctx context.Context, f *operate.Fleet, provider string) string {
	s, err := f.Status(ctx, provider, nil)
	if err != nil || s.Letters == 0 {
		return ""
	}
	return fmt.Sprintf("; of its %d letters those that were parked go within 10 s, as the permits allow, the others at their time", s.Letters)
}

// may says what to do about an order that is refused or doubtful.
func (c *cli) may(ctx context.Context, f *operate.Fleet, o operate.Order) error {
	err := f.May(ctx, o)
	var served *operate.ServedError
	var above *operate.AboveError
	switch {
	case errors.As(err, &served):
		return failed("stop these workers, or take the provider's key from them, and run it again",
			"%s is served by %s: only a provider that no live worker serves can be retired", o.Provider, workerNames(served.Workers))
	case errors.As(err, &above) && c.bold:
		return nil
	case errors.As(err, &above) && !c.person():
		return misused("add --yes if the provider allows it", "%w", above)
	case errors.As(err, &above):
		return c.ask(ctx, above.Error()+": is that what the provider allows? [y/N] ", "y", "yes")
	}
	return err
}

// controlLine is the --json line of pause, resume, limit and retire.
type controlLine struct {
	Action   string    `json:"action"`
	Provider string    `json:"provider"`
	Until    time.Time `json:"until,omitzero"`
	Limits   string    `json:"limits,omitempty"`
	By       string    `json:"by"`
	Reason   string    `json:"reason"`
}
