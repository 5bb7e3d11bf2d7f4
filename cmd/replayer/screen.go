package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
)

// bytesVariable is where a worker of the provider reads its month's budget.
func bytesVariable(provider string) string {
	prefix := strings.ToUpper(strings.ReplaceAll(provider, "-", "_"))
	if provider == "newsapi" {
		prefix = "NEWS"
	}
	return prefix + "_BANDWIDTH_LIMIT_GB"
}

// ownBytesLimit is what the environment here says, which may be the workers'.
func (c *cli) ownBytesLimit(provider string) int64 {
	gb, err := strconv.ParseFloat(c.getenv(bytesVariable(provider)), 64)
	if err != nil || !(gb > 0) || gb > 1e9 {
		return 0
	}
	return int64(gb * (1 << 30))
}

// The colours of a terminal.
const (
	red    = "31"
	yellow = "33"
	green  = "32"
	bold   = "1"
)

// paint colours a text, if the output is a terminal that wants it.
func (c *cli) paint(colour, text string) string {
	if c.noColor || c.getenv("NO_COLOR") != "" || c.getenv("TERM") == "dumb" || !terminal.Is(c.out) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// screen is status for a person.
func (c *cli) screen(lines []operate.Status, replayers bool, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", now.UTC().Format("2006-01-02 15:04:05Z"))
	if replayers {
		b.WriteString("   replayers run\n")
	} else {
		b.WriteString("   " + c.paint(red, "no replayer runs: start one with replayer run") + "\n")
	}
	for _, s := range lines {
		c.provider(&b, s, now)
	}
	return b.String()
}

func (c *cli) provider(b *strings.Builder, s operate.Status, now time.Time) {
	row := func(name, text string) { fmt.Fprintf(b, "  %-9s %s\n", name, text) }
	fmt.Fprintf(b, "\n%s\n", c.paint(bold, terminal.Visible(s.Provider)))
	if len(s.Workers) > 0 {
		row("workers", terminal.Visible(strings.Join(s.Workers, ", ")))
	} else {
		row("workers", c.paint(red, "none serves it"))
	}
	for _, why := range s.Unable {
		row("unable", c.paint(red, terminal.Visible(why)))
	}
	row("circuit", c.circuit(s, now))
	for _, o := range s.Operations {
		row("", c.paint(red, openText(o, now)))
	}
	if !s.PausedUntil.IsZero() {
		row("paused", c.paint(yellow, fmt.Sprintf("until %s (%s) by %s: %s", terminal.Clock(s.PausedUntil, now), terminal.Ago(s.PausedUntil, now), terminal.Visible(s.PausedBy), terminal.Visible(s.PausedWhy))))
	}
	if !s.HoldUntil.IsZero() {
		row("hold", c.paint(yellow, fmt.Sprintf("asked for by the provider until %s (%s)", terminal.Clock(s.HoldUntil, now), terminal.Ago(s.HoldUntil, now))))
	}
	for _, lane := range s.Lanes {
		text := fmt.Sprintf("%d waiting, %d in flight", lane.Waiting, lane.InFlight)
		if !lane.Oldest.IsZero() {
			text += ", oldest " + terminal.Ago(lane.Oldest, now)
		}
		row(lane.Lane, text)
	}
	if s.Backlog > 0 {
		row("backlog", backlogText(s, now))
	}
	row("permits", permitsText(s, now))
	if s.Foreign > 0 {
		row("foreign", c.paint(yellow, fmt.Sprintf("%d calls that the provider counts are not ours, until %s (%s)", s.Foreign, terminal.Clock(s.ForeignUntil, now), terminal.Ago(s.ForeignUntil, now))))
	}
	row("bytes", bytesText(s, now))
	letters := fmt.Sprintf("%d: %d waiting, %d due, %d held", s.Letters, s.Waiting, s.Due, s.HeldLetters)
	if s.Sampled {
		letters = fmt.Sprintf("%d: about %d waiting, %d due", s.Letters, s.Waiting, s.Due)
	}
	if s.Held != "" {
		letters += " (" + s.Held + ")"
	}
	row("letters", letters)
	c.todayRows(s, row)
	if s.Review > 0 {
		row("review", c.paint(yellow, strconv.Itoa(s.Review)+" wait for a person: replayer review list --provider "+s.Provider))
	} else {
		row("review", "0")
	}
}

// keylessLine tells of the providers that no worker has a key for.
func keylessLine(variables map[string]string) string {
	if len(variables) == 0 {
		return ""
	}
	var parts []string
	for _, p := range slices.Sorted(maps.Keys(variables)) {
		parts = append(parts, p+" ("+variables[p]+")")
	}
	return "\nno worker has a key for " + terminal.Visible(strings.Join(parts, ", ")) + "\n"
}

// todayRows tell what failed today, and who asked most.
func (c *cli) todayRows(s operate.Status, row func(name, text string)) {
	if s.Today == nil {
		return
	}
	text := fmt.Sprintf("%d calls, %s; %d ok, %d cached, %d stale, %d failed", s.Today.Calls, size(s.Today.Bytes), s.Today.OK, s.Today.Cached, s.Today.Stale, s.Today.Failed)
	if s.MostBy.Calls > 0 {
		text += fmt.Sprintf("; most calls for %s, %d", s.MostBy.Agent, s.MostBy.Calls)
	}
	row("today", terminal.Visible(text))
	var causes []string
	for _, cause := range s.Causes {
		causes = append(causes, fmt.Sprintf("%d %s of %s", cause.Count, cause.Cause, cause.Operation))
	}
	if len(causes) > 0 {
		row("failed", c.paint(yellow, terminal.Visible(strings.Join(causes, ", "))))
	}
}

// backlogText says when the backlog is gone.
func backlogText(s operate.Status, now time.Time) string {
	text := strconv.Itoa(s.Backlog)
	if !s.BacklogGone.IsZero() {
		text += ", gone at " + terminal.Clock(s.BacklogGone, now) + " (" + terminal.Ago(s.BacklogGone, now) + ") at the present limit"
	}
	return text
}

// unservedLine tells of all the names that nobody serves.
func unservedLine(u operate.Unserved) string {
	if len(u.Names) == 0 {
		return ""
	}
	const shown = 5
	names := u.Names[:min(len(u.Names), shown)]
	text := terminal.Visible(strings.Join(names, ", "))
	if more := len(u.Names) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("\nnobody serves %s: %d requests, %d released, %d letters, %d in review\n", text, u.Requests, u.Released, u.Letters, u.Review)
}

func (c *cli) circuit(s operate.Status, now time.Time) string {
	if s.Circuit == string(circuit.Closed) {
		return c.paint(green, "closed")
	}
	state := s.Circuit
	switch {
	case s.CircuitCall != "":
		state += " for one call of " + s.CircuitAgent
	case s.CircuitAgent != "":
		state += " for " + s.CircuitAgent
	}
	return c.paint(red, probeText(state, s.CircuitUntil, now, s.CircuitWhy))
}

// openText is one operation whose circuit is not closed.
func openText(o operate.OpenStatus, now time.Time) string {
	text := terminal.Visible(o.Operation)
	if o.Agent != "" {
		text += " for " + o.Agent
	}
	return text + " " + probeText(o.Circuit, o.Until, now, o.Why)
}

func probeText(state string, until, now time.Time, why string) string {
	if until.After(now) {
		state += ", next probe at " + terminal.Clock(until, now) + " (" + terminal.Ago(until, now) + ")"
	} else {
		state += ", a probe is due"
	}
	if why != "" {
		state += ": " + terminal.Visible(why)
	}
	return state
}

func permitsText(s operate.Status, now time.Time) string {
	var parts []string
	for _, p := range s.Permits {
		limit := p.Limit
		if p.Group != "" {
			limit += " for " + p.Group
		}
		parts = append(parts, fmt.Sprintf("%d left of %s, %d used in the last minute", p.Left, limit, p.LastMinute))
	}
	if len(parts) == 0 {
		parts = []string{"no limit was used yet"}
	}
	if s.Quota != "" {
		text := "of the quota " + terminal.Visible(s.Quota)
		if len(s.Sharing) > 0 {
			text += ", shared with " + terminal.Visible(strings.Join(s.Sharing, ", "))
		}
		parts = append(parts, text)
	}
	if s.AtOnce > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d calls at once", s.AtOnceTaken, s.AtOnce))
	}
	if !s.NextPermitAt.IsZero() {
		parts = append(parts, "the next one at "+terminal.Clock(s.NextPermitAt, now)+" ("+terminal.Ago(s.NextPermitAt, now)+")")
	}
	if s.LimitsChanged != "" {
		text := "changed by " + terminal.Visible(cmp.Or(s.LimitsBy, "an operator")) + " to " + terminal.Visible(s.LimitsChanged)
		if !s.LimitsUntil.IsZero() {
			text += " until " + terminal.Clock(s.LimitsUntil, now)
		}
		if s.LimitsWhy != "" {
			text += ": " + terminal.Visible(s.LimitsWhy)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

func bytesText(s operate.Status, now time.Time) string {
	text := size(s.BytesUsed) + " this month"
	switch {
	case s.BytesLimit == 0:
		return text + " (quota not known: no worker that runs has told one, or set " + bytesVariable(s.Provider) + ")"
	case s.BytesOutAt.IsZero():
		text += fmt.Sprintf(" of %s, enough at this pace", size(s.BytesLimit))
	case !s.BytesOutAt.After(now):
		text += fmt.Sprintf(" of %s: used up", size(s.BytesLimit))
	default:
		text += fmt.Sprintf(" of %s, used up on %s at this pace", size(s.BytesLimit), s.BytesOutAt.Format("2006-01-02"))
	}
	return text + fmt.Sprintf(" (%.1f %%)", 100*float64(s.BytesUsed)/float64(s.BytesLimit))
}

func size(n int64) string {
	const unit = 1024
	switch {
	case n >= unit*unit*unit:
		return fmt.Sprintf("%.1f GB", float64(n)/(unit*unit*unit))
	case n >= unit*unit:
		return fmt.Sprintf("%.1f MB", float64(n)/(unit*unit))
	case n >= unit:
		return fmt.Sprintf("%.1f KB", float64(n)/unit)
	default:
		return strconv.FormatInt(n, 10) + " B"
	}
}
