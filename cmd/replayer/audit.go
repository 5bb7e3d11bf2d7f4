package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

// signature is in whose name, and why, a command acts.
type signature struct{ by, reason, run string }

func (s *signature) flags(c *cli, cmd *cobra.Command, reasonRequired bool) {
	text := "why, for the audit"
	if reasonRequired {
		text += " (required)"
	}
	cmd.Flags().StringVar(&s.reason, "reason", "", text)
	cmd.Flags().StringVar(&s.by, "by", "", "who acts, for the audit (default $USER)")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.started = true
		s.reason = strings.TrimSpace(s.reason)
		dry := cmd.Flags().Lookup("dry-run")
		if reasonRequired && s.reason == "" && (dry == nil || dry.Value.String() != "true") {
			return misused(`add --reason "…": colleagues will read it in replayer audit`, "%s needs a reason", cmd.CommandPath())
		}
		s.run = rand.Text()[:10]
		if s.by == "" {
			s.by = c.getenv("USER")
		}
		if u, err := user.Current(); err == nil && s.by == "" {
			s.by = u.Username
		}
		return run(cmd, args)
	}
}

// signed is the signature of one run of a command.
func (s *signature) signed(l *link) operate.Signature {
	return operate.Signature{By: s.by, NATSUser: l.user, Reason: s.reason, Run: s.run}
}

func (c *cli) cmdAudit() *cobra.Command {
	var f operate.ActFilter
	var since, until, class string
	var limit int
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who did what, when and why",
		Long: `List who did what to which request or provider, when and why, the newest first.

An act is recorded before it is done, so the last line of somebody whose
command was killed may tell of an act that was not done.`,
		Example: `  replayer audit --since 24h
  replayer audit --action requeue --agent alice --id q-17`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			if f.Action != "" && !slices.Contains(operate.Actions(), f.Action) {
				return misused(oneOf(f.Action, operate.Actions()), "--action %q is not known", f.Action)
			}
			var err error
			if f.Class, err = knownClass(class, append(classes(), string(browse.ClassQueued))); err != nil {
				return err
			}
			if limit < 0 {
				return misused("give a number from 1, or leave it out", "--limit %d is negative", limit)
			}
			within := func(now time.Time) error {
				if f.Since, err = moment("--since", since, now); err != nil {
					return err
				}
				f.Until, err = moment("--until", until, now)
				return err
			}
			if err := within(time.Now()); err != nil {
				return err
			}
			ctx, l, done, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			if err := within(l.Now()); err != nil { // how long ago is by the server's clock
				return err
			}
			return c.audit(ctx, l, f, limit)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Action, "action", "", "only this `action`: "+strings.Join(operate.Actions(), ", "))
	flags.StringVar(&f.Provider, "provider", "", "only of this `provider`")
	flags.StringVar(&f.Operation, "operation", "", "only on requests of this `operation`")
	flags.StringVar(&f.Agent, "agent", "", "only on requests of this `agent`")
	flags.StringVar(&f.ID, "id", "", "only on the request of this `id`")
	flags.StringVar(&class, "class", "", "only on requests of this error `class`: "+strings.Join(classes(), ", ")+", "+string(browse.ClassQueued))
	flags.StringVar(&f.By, "by", "", "only by this `person`")
	flags.StringVar(&since, "since", "", "only since: a `time` as 2h, 7d or 2026-11-24T10:00:00Z")
	flags.StringVar(&until, "until", "", "only before: a `time` in the same form")
	flags.IntVar(&limit, "limit", 0, "stop after `N` lines (0 = no limit)")
	completeWords(cmd, "action", operate.Actions())
	completeWords(cmd, "class", append(classes(), string(browse.ClassQueued)))
	return cmd
}

func (c *cli) audit(ctx context.Context, l *link, f operate.ActFilter, limit int) error {
	buffered := bufio.NewWriterSize(c.out, 64<<10)
	t := terminal.NewTable(buffered, "WHEN", "WHO", "ACTION", "WHAT", "WHY").Fit(terminal.Width(c.out))
	count, more := 0, false
	var err error
	for a, walkErr := range operate.Acts(ctx, l.Browser, f) {
		if err = walkErr; err != nil {
			break
		}
		if more = limit > 0 && count == limit; more {
			break
		}
		count++
		if c.json {
			err = encode(buffered, a)
		} else {
			err = t.Row(a.At.Format("2006-01-02 15:04:05Z"), actor(a), a.Action, subjectOf(a), a.Reason)
		}
		if err != nil {
			break
		}
	}
	if err := errors.Join(err, t.Flush(), buffered.Flush()); err != nil {
		return err
	}
	if more {
		c.sayf("more match: stopped at --limit %d", limit)
	}
	if count == 0 {
		return c.unmatchedHere(ctx, l, f.Provider, f.Agent, nothing("widen the filters", "nothing matched"))
	}
	return nil
}

func actor(a operate.Act) string {
	if a.NATSUser == "" || a.NATSUser == a.By {
		return a.By
	}
	return a.By + " as " + a.NATSUser
}

// subjectOf is what an act was done to.
func subjectOf(a operate.Act) string {
	text := a.Provider
	if a.ID != "" {
		text += " " + a.Operation + " " + a.Agent + "/" + a.ID + " generation " + strconv.Itoa(a.Generation)
	}
	if a.Unreadable != "" {
		text = "cannot be read: " + a.Unreadable
	}
	if a.Outcome != "" {
		text += " (not done: " + string(a.Outcome) + " by somebody who was faster)"
	}
	if a.Superseded {
		text += " (item only: a later generation was there)"
	}
	if a.Original != "" {
		text += " (edited)"
	}
	if a.Limits != "" {
		text += " to " + a.Limits
	}
	if !a.Until.IsZero() {
		text += " until " + a.Until.UTC().Format("2006-01-02 15:04:05Z")
	}
	return text
}
