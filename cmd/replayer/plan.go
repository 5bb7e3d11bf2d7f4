package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"
)

// planLine is the first --json line of an act on more than one message, and
// the only one of a dry run.
type planLine struct {
	Kind           string               `json:"kind"` // plan
	Action         string               `json:"action"`
	DryRun         bool                 `json:"dry_run"`
	Count          int                  `json:"count"`
	AlreadyDue     int                  `json:"already_due"`
	Unreadable     int                  `json:"unreadable"`
	More           bool                 `json:"more"` // --limit leaves some out
	Groups         []operate.GroupCount `json:"groups"`
	DueGroups      []operate.GroupCount `json:"due_groups"`           // of those that go by themselves
	Agents         map[string]int       `json:"agents,omitempty"`     // unless there are too many
	Operations     map[string]int       `json:"operations,omitempty"` // the same
	CircuitOpen    int                  `json:"circuit_open"`         // of count: a circuit is open for them
	PastDeadline   int                  `json:"past_deadline"`        // with --keep-deadline
	Oldest         time.Time            `json:"oldest,omitzero"`
	Newest         time.Time            `json:"newest,omitzero"`
	RateSeconds    float64              `json:"rate_seconds"`    // at --rate; 0: as fast as possible
	PermitsSeconds float64              `json:"permits_seconds"` // within the providers' limits, as last used; 0: not known
}

func (b *bulk) printPlan(plan operate.Plan) error {
	atRate, inPermits := b.task.Takes(plan)
	if b.c.json {
		return b.c.object(planLine{
			Kind: "plan", Action: b.verb, DryRun: b.pace.dryRun, Count: plan.Count, AlreadyDue: plan.Due,
			Unreadable: plan.Unreadable, More: plan.More, Groups: plan.Bars(), DueGroups: plan.ByThemselves.Bars(), Agents: plan.Agents, Operations: plan.Operations, CircuitOpen: plan.Covered, PastDeadline: plan.PastEnding, Oldest: plan.Oldest, Newest: plan.Newest,
			RateSeconds: atRate.Seconds(), PermitsSeconds: inPermits.Seconds(),
		})
	}
	now := b.l.Now()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s", b.verb, messages(plan.Count))
	if plan.More {
		text.WriteString(" (--limit leaves more out)")
	}
	text.WriteByte('\n')
	if err := b.c.groups(&text, plan.Histogram); err != nil {
		return err
	}
	failed := "failed"
	if b.task.Queued {
		failed = "failed, or asked," // what is queued
	}
	fmt.Fprintf(&text, "%s between %s and %s\n", failed, terminal.Stamp(plan.Oldest, now), terminal.Stamp(plan.Newest, now))
	for _, names := range []struct {
		what string
		of   map[string]int
	}{{"agents", plan.Agents}, {"operations", plan.Operations}} {
		if n := len(names.of); n > 0 && n <= namesShown {
			fmt.Fprintf(&text, "%s: %s\n", names.what, terminal.Visible(counted(names.of)))
		}
	}
	if plan.Count <= len(plan.Identities) && plan.Count <= namesShown {
		for _, i := range plan.Identities {
			fmt.Fprintf(&text, "  %s\n", terminal.Visible(nameOf(i)))
		}
	}
	if plan.Due > 0 {
		fmt.Fprintf(&text, "%d more are due already, and go by themselves:\n", plan.Due)
		if err := b.c.groups(&text, plan.ByThemselves); err != nil {
			return err
		}
	}
	if plan.Covered > 0 {
		fmt.Fprintf(&text, "%d of them wait all the same: a circuit is open for them, and they go by themselves as soon as it closes\n", plan.Covered)
	}
	switch {
	case atRate > 0:
		fmt.Fprintf(&text, "takes %s at %s/s", terminal.Short(atRate), strconv.FormatFloat(b.task.PerSecond, 'g', -1, 64))
	default:
		text.WriteString("takes as long as the server needs")
	}
	if b.task.Works() {
		switch {
		case inPermits > 0:
			fmt.Fprintf(&text, "; the calls take at least %s within the permits", terminal.Short(inPermits))
			if gone := b.fleet.Gone(plan.Providers); gone.After(now) {
				fmt.Fprintf(&text, ": gone at %s", terminal.Clock(gone, now))
			}
		default:
			text.WriteString("; no limits are known that the calls must keep to")
		}
	}
	if b.pace.dryRun {
		text.WriteString("\ndry run: nothing was changed")
	}
	return b.c.printf("%s\n", terminal.Ours(text.String()))
}

// messages are so many as a person says it.
func messages(n int) string {
	if n == 1 {
		return "1 message"
	}
	return strconv.Itoa(n) + " messages"
}

// groups is the table of a histogram. Each group has its number, by which a
// later command can choose it.
func (c *cli) groups(w io.Writer, h operate.Histogram) error {
	t := terminal.NewTable(w, "GROUP", "COUNT", "PROVIDER", "CLASS", "ERROR").Fit(terminal.Width(c.out))
	for _, g := range h.Bars() {
		if err := t.Row(strconv.Itoa(g.Number), strconv.Itoa(g.Count), g.Provider, string(g.Class), g.Error); err != nil {
			return err
		}
	}
	return t.Flush()
}

// namesShown is how many names a plan lists.
const namesShown = 10

// counted lists names with how many messages each has, the most first.
func counted(names map[string]int) string {
	order := slices.SortedFunc(maps.Keys(names), func(a, b string) int { return cmp.Or(cmp.Compare(names[b], names[a]), cmp.Compare(a, b)) })
	parts := make([]string, len(order))
	for i, name := range order {
		parts[i] = name + " " + strconv.Itoa(names[name])
	}
	return strings.Join(parts, ", ")
}

// parseRate reads 5/s, 300/min or a plain number a second; 0 is no limit.
func parseRate(text string) (float64, error) {
	number, unit, _ := strings.Cut(text, "/")
	per := map[string]float64{"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || per == 0 || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, misused("write it as 5/s or 300/min; 0 is as fast as possible", "--rate %q is no rate", text)
	}
	return n / per, nil
}

// manyMessages is above how many a person must type the number instead of y.
const manyMessages = 100

// confirm asks a person, and refuses where there is none.
func (c *cli) confirm(ctx context.Context, verb string, count int) error {
	if !c.person() {
		return misused("add --yes, or --dry-run to see the plan only", "%s of %s needs a confirmation, and this is no terminal", verb, messages(count))
	}
	want := []string{"y", "yes"}
	question := fmt.Sprintf("%s these %s? [y/N] ", verb, messages(count))
	if count == 1 {
		question = verb + " this message? [y/N] "
	}
	if count > manyMessages {
		want = []string{strconv.Itoa(count)}
		question = fmt.Sprintf("type %d to %s these messages: ", count, verb)
	}
	return c.ask(ctx, question, want...)
}

// ask is done where the answer is one that is wanted.
func (c *cli) ask(ctx context.Context, question string, want ...string) error {
	if _, err := fmt.Fprint(c.errs, question); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	answer, err := c.readLine(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(want, strings.ToLower(strings.TrimSpace(answer))) {
		return failed("run it again to be asked again", "not confirmed: nothing was changed")
	}
	return nil
}

// readLine reads a line, or until Ctrl-C. The read itself cannot be
// interrupted; it ends with the program.
func (c *cli) readLine(ctx context.Context) (string, error) {
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() {
		text, err := bufio.NewReader(c.in).ReadString('\n')
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		if l.err != nil && !errors.Is(l.err, io.EOF) {
			return "", fmt.Errorf("read the answer: %w", l.err)
		}
		return l.text, nil
	case <-ctx.Done():
		return "", failed("run it again to be asked again", "not confirmed: nothing was changed")
	}
}
