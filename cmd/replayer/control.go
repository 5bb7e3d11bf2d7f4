package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fetchworker"
	"fetchworker/internal/broker"
	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"

	"github.com/spf13/cobra"
)

func (c *cli) cmdPause() *cobra.Command {
	s, length := &signature{}, ""
	cmd := &cobra.Command{
		Use:   "pause PROVIDER --for 1h --reason …",
		Short: "Stop all calls to a provider for a time",
		Long: `Stop all calls to a provider, fleet-wide and within a second. Its requests are
answered from stale bodies where they allow it, else they wait in the DLQ and
go by themselves when the pause ends.`,
		Example: `  replayer pause fmp --for 1h --reason "vendor maintenance"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := span(length)
			if err != nil || d <= 0 {
				return misused("give how long, as --for 30m, 1h or 2d", "pause needs --for, and %q is no such time", length)
			}
			return c.control(cmd, args[0], s, func(ctx context.Context, l *link, a *operate.Act) (func() error, string) {
				a.Action, a.Until = operate.ActPause, l.now().Add(d).UTC()
				return func() error { return budget.Pause(ctx, l.kv, a.Provider, a.Until, s.by, s.reason) },
					fmt.Sprintf("%s is paused until %s (for %s)", a.Provider, clock(a.Until), short(d))
			})
		},
	}
	cmd.Flags().StringVar(&length, "for", "", "how `long`, as 30m, 1h or 2d (required)")
	s.flags(c, cmd, true)
	return cmd
}

func (c *cli) cmdResume() *cobra.Command {
	s := &signature{}
	cmd := &cobra.Command{
		Use:   "resume PROVIDER --reason …",
		Short: "End a pause, close an open circuit, lift a hold",
		Long: `End a pause, close an open circuit and lift a hold after a 429. What waits for
the provider goes within ten seconds. If the provider is still down its circuit
opens again after a few failures, and no request is harmed.`,
		Example: `  replayer resume fmp --reason "vendor says fixed"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.control(cmd, args[0], s, func(ctx context.Context, l *link, a *operate.Act) (func() error, string) {
				a.Action = operate.ActResume
				return func() error { return budget.Resume(ctx, l.kv, a.Provider) },
					a.Provider + " is resumed: no pause, circuit closed, no hold"
			})
		},
	}
	s.flags(c, cmd, true)
	return cmd
}

func (c *cli) cmdLimit() *cobra.Command {
	s, length := &signature{}, ""
	cmd := &cobra.Command{
		Use:   "limit PROVIDER LIMITS --reason …",
		Short: "Change a provider's rate limits, live and fleet-wide",
		Long: `Change a provider's rate limits, live and fleet-wide, for good or --for a time.
LIMITS are windows such as 60/min,2/s or 100/24h; "unlimited" takes them off,
"default" gives every worker the limits of its own configuration back.`,
		Example: `  replayer limit fmp 60/min,2/s --for 2h --reason "vendor asks us to slow down"
  replayer limit fmp default --reason "back to normal"`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			limits, err := budget.ParseLimits(args[1])
			if args[1] != "default" && err != nil {
				return misused(`write the limits as 60/min or 60/min,2/s, "unlimited" or "default"`, "%w", err)
			}
			var d time.Duration
			if length != "" {
				if d, err = span(length); err != nil || d <= 0 || args[1] == "default" {
					return misused("give how long, as --for 30m, 1h or 2d, and none with default", "--for %q cannot be used here", length)
				}
			}
			return c.control(cmd, args[0], s, func(ctx context.Context, l *link, a *operate.Act) (func() error, string) {
				a.Action, a.Limits = operate.ActLimit, limits.String()
				if args[1] == "default" {
					a.Limits = "default"
					return func() error { return budget.ResetLimits(ctx, l.kv, a.Provider) },
						a.Provider + " has the limits of its workers' configuration again"
				}
				text := a.Provider + " is limited to " + a.Limits
				if d > 0 {
					a.Until = l.now().Add(d).UTC()
					text += " until " + clock(a.Until)
				}
				return func() error { return budget.SetLimits(ctx, l.kv, a.Provider, limits, a.Until, s.by, s.reason) }, text
			})
		},
	}
	cmd.Flags().StringVar(&length, "for", "", "how `long`, as 30m, 1h or 2d (default for good)")
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
			return c.control(cmd, args[0], s, func(ctx context.Context, l *link, a *operate.Act) (func() error, string) {
				a.Action = operate.ActRetire
				return func() error {
					// The note alone does nothing while there are consumers.
					if err := budget.Retire(ctx, l.kv, a.Provider, s.by, s.reason); err != nil {
						return err
					}
					return broker.RetireProvider(ctx, l.js, a.Provider)
				}, a.Provider + " is retired: what waits for it and what is new is answered provider_not_configured; its review items stay"
			})
		},
	}
	s.flags(c, cmd, true)
	return cmd
}

// order prepares an act on a provider: it completes the audit, and returns
// the act and what to say when it is done.
type order func(ctx context.Context, l *link, a *operate.Act) (act func() error, done string)

// control does an act on a provider: checked, recorded, done, announced.
func (c *cli) control(cmd *cobra.Command, provider string, s *signature, prepare order) error {
	if !fetchworker.ValidToken(provider) {
		return misused("give the name as replayer status shows it", "%q is no provider: 1 to 32 of a-z 0-9 _ -", provider)
	}
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	fleet, err := l.fleet(ctx)
	if err != nil {
		return err
	}
	defer fleet.Close()
	a := operate.Act{Provider: provider}
	act, text := prepare(ctx, l, &a)
	if err := c.may(ctx, fleet, a); err != nil {
		return err
	}
	if err := operate.RecordAct(ctx, l.js, s.signed(l), a); err != nil {
		return err
	}
	if err := act(); err != nil {
		return err
	}
	err = dlq.Emit(ctx, l.log, dlq.Event{
		Kind: budget.KindControl, Provider: provider, ID: s.run, Time: l.now(),
		Data: controlEvent{a.Action, s.by, s.reason, a.Until, a.Limits},
	})
	if err != nil {
		c.sayf("it is done, but the event that tells others of it could not be stored: %v", err)
	}
	if c.json {
		return c.object(controlLine{a.Action, provider, a.Until, a.Limits, s.by, s.reason})
	}
	return c.printf("%s\n", text)
}

// may refuses to retire a provider that is served, or that never was. Any
// other act may come before the first worker, but is more likely a typing
// error then, and that is told.
func (c *cli) may(ctx context.Context, f *fleet, a operate.Act) error {
	view := f.View(a.Provider, f.l.now())
	if a.Action == operate.ActRetire && len(view.Workers) > 0 {
		return failed("stop these workers, or take the provider's key from them, and run it again",
			"%s is served by %s: only a provider that no live worker serves can be retired", a.Provider, workerNames(view.Workers))
	}
	known, err := f.known(ctx)
	if err != nil {
		return err
	}
	switch {
	case slices.Contains(known, a.Provider):
	case a.Action == operate.ActRetire:
		return nothing("replayer status lists the providers", "no provider %s is known here", a.Provider)
	default:
		c.sayf("note: nobody has served %s yet; replayer status lists the providers", a.Provider)
	}
	return nil
}

// controlEvent is the data of a control event.
type controlEvent struct {
	Action string    `json:"action"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until,omitzero"`
	Limits string    `json:"limits,omitempty"`
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
