package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

// bulk is a task with a person before it: planned, shown, confirmed, done,
// reported.
type bulk struct {
	c     *cli
	l     *link
	fleet *operate.Fleet
	task  *operate.Task
	pace  *pace

	verb, past string // replay, replayed
	all        bool
	named      bool // the one request is named by an argument
	edit       bool // the one message is to be edited before the act
}

// pace is how a bulk act is to be done.
type pace struct {
	dryRun, yes bool
	rate        string
	canary      int
	minSuccess  float64
	canaryWait  time.Duration
}

// flags adds the flags of a bulk act; canary only to one that asks workers.
func (p *pace) flags(cmd *cobra.Command, s *selection, work bool) {
	f := cmd.Flags()
	f.BoolVar(&p.dryRun, "dry-run", false, "print the plan and change nothing")
	f.BoolVar(&p.yes, "yes", false, "do not ask")
	f.BoolVar(&s.all, "all", false, "select everything, where no filter is given")
	f.StringVar(&p.rate, "rate", "0", "at most `N/s` messages (0 = as fast as possible)")
	if work {
		f.IntVar(&p.canary, "canary", 0, "do `N` first, watch their answers, go on only if enough succeed")
		f.Float64Var(&p.minSuccess, "min-success", 0.9, "the `share` of the canary that must succeed")
		f.DurationVar(&p.canaryWait, "canary-wait", 5*time.Minute, "how `long` the canary's answers are waited for")
	}
}

// into checks the pace and gives it to a task.
func (p *pace) into(t *operate.Task) error {
	var err error
	if t.PerSecond, err = parseRate(p.rate); err != nil {
		return err
	}
	if p.canary < 0 {
		return misused("give a number from 1, or leave it out", "--canary %d is negative", p.canary)
	}
	if p.canary > 0 && !(p.minSuccess > 0 && p.minSuccess <= 1) {
		return misused("give a share such as 0.9", "--min-success %v is not between 0 and 1", p.minSuccess)
	}
	t.Canary, t.MinSuccess, t.CanaryWait = p.canary, p.minSuccess, p.canaryWait
	return nil
}

// bulk connects and does an act on all that is selected.
func (c *cli) bulk(cmd *cobra.Command, s *selection, args []string, p *pace, sign *signature, action, past string, set func(*bulk)) error {
	if err := s.resolve(args, time.Now()); err != nil {
		return err
	}
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer done()
	if err := s.resolve(args, l.Now()); err != nil { // how long ago is by the server's clock
		return err
	}
	f, err := l.Fleet(ctx)
	if err != nil {
		return err
	}
	defer f.Close()
	b := &bulk{
		c: c, l: l, fleet: f, pace: p, verb: action, past: past, all: s.all, named: len(args) == 1,
		task: &operate.Task{Action: action, Filter: s.filter, Limit: s.limit, Signed: sign.signed(l)},
	}
	set(b)
	return b.run(ctx)
}

// run plans, asks and acts.
func (b *bulk) run(ctx context.Context) error {
	if b.task.Filter.Empty() && b.task.Limit == 0 && !b.all {
		return misused("give a filter such as --provider, or --all", "%s needs to know which messages", b.verb)
	}
	if err := b.pace.into(b.task); err != nil {
		return err
	}
	if err := b.task.Begin(ctx, b.l.Desk, b.fleet); err != nil {
		return err
	}
	plan, err := b.plan(ctx)
	if err != nil {
		return err
	}
	if plan.Count == 0 {
		return b.nothingToDo(ctx, plan)
	}
	if b.named && len(plan.Identities) > 1 {
		return b.c.ambiguous(plan.Identities)
	}
	// One message needs no plan and no question, unless that is all that was
	// asked for, or nobody has named it and it would end for good.
	ask := plan.Count > 1 || b.task.Action == operate.ActDiscard && !b.named
	if ask || b.pace.dryRun {
		if err := b.printPlan(plan); err != nil {
			return err
		}
	}
	if err := b.warn(ctx, plan); err != nil || b.pace.dryRun {
		return err
	}
	if b.edit {
		if err := b.revise(ctx, plan); err != nil {
			return err
		}
	}
	if ask && !b.pace.yes {
		if err := b.c.confirm(ctx, b.verb, plan.Count); err != nil {
			return err
		}
	}
	return b.execute(ctx, plan)
}

func (b *bulk) plan(ctx context.Context) (operate.Plan, error) {
	p := terminal.NewProgress(b.c.errs, "reading", 0)
	defer p.Close()
	return b.task.Plan(ctx, operate.Watch{Did: p.Add, Note: p.Note})
}

func (b *bulk) nothingToDo(ctx context.Context, plan operate.Plan) error {
	switch {
	case plan.Due > 0 && b.c.json:
		return b.c.object(b.result(plan, operate.Result{}, ""))
	case plan.Due > 0:
		if err := b.c.printf("nothing to %s: %d are due already, and go by themselves\n", b.verb, plan.Due); err != nil {
			return err
		}
		return b.c.groups(b.c.out, plan.ByThemselves)
	case plan.Unreadable > 0:
		return failed("look at them with replayer list; remove them with nats stream rmmsg", "the headers of all %d that match cannot be read", plan.Unreadable)
	default:
		return b.c.unmatched(ctx, b.l, b.fleet, b.task.Filter.Provider, b.task.Filter.Agent, errUnmatched())
	}
}

// warn refuses what should not be done now, and tells what will hold it up.
func (b *bulk) warn(ctx context.Context, plan operate.Plan) error {
	if plan.Unreadable > 0 {
		b.c.sayf("note: %s cannot be read: left alone", messages(plan.Unreadable))
	}
	if !b.task.Works() {
		return nil
	}
	if plan.PastEnding > 0 {
		b.c.sayf("note: the deadlines of %d have passed: they are answered deadline_exceeded at once", plan.PastEnding)
	}
	holds, err := b.task.Holds(ctx, plan)
	if err != nil {
		return err
	}
	for _, h := range holds {
		words := h.Words(b.l.Now())
		if h.Stops && b.task.Action == operate.ActReplay && !b.pace.dryRun {
			return failed("wait for it; or choose others with --provider; replayer status shows what is open", "%s refused: %s", b.verb, words)
		}
		b.c.sayf("note: %s", words)
	}
	if b.pace.dryRun {
		return nil
	}
	running, err := b.l.Replayers(ctx)
	if err != nil {
		return err
	}
	if !running {
		b.c.sayf("note: no replayer runs: the letters stay due until one does (replayer run)")
	}
	return nil
}

// execute does it, tells how far it is, and reports, also when it stopped
// early.
func (b *bulk) execute(ctx context.Context, plan operate.Plan) error {
	p := terminal.NewProgress(b.c.errs, b.verb, plan.Count)
	defer p.Close()
	result, err := b.task.Do(ctx, plan, operate.Watch{Did: p.Add, Note: p.Note})
	p.Close()
	err = b.explain(err)
	if err := b.report(plan, result, err); err != nil {
		return err
	}
	for _, failure := range result.Failures {
		b.c.sayf("failed: %v", failure)
	}
	switch {
	case err != nil:
		return err
	case result.Fates[operate.FateFailed] > 0:
		return failed("correct what the server refuses, and run it again", "%d could not be done", result.Fates[operate.FateFailed])
	case result.Fates[operate.FateDone]+result.Fates[operate.FateSuperseded] == 0:
		return nothing("replayer audit tells who was faster", "nothing was left to do")
	}
	return nil
}

// explain says what to do about what stopped a task.
func (b *bulk) explain(err error) error {
	var hold *operate.HoldError
	var canary *operate.CanaryError
	switch {
	case errors.As(err, &canary):
		return failed("look at what failed with replayer list and replayer review list; the rest was not touched", "%w", canary)
	case errors.As(err, &hold):
		return failed("nothing is lost: run it again when replayer status shows the provider open", "stopped: %s", hold.Hold.Words(b.l.Now()))
	}
	return err
}

// revise lets the person edit the one message.
func (b *bulk) revise(ctx context.Context, plan operate.Plan) error {
	if plan.Count != 1 {
		return misused("name one with AGENT/ID, --provider and --operation", "--edit takes one message, and %d match", plan.Count)
	}
	found, err := b.task.One(ctx, plan)
	if errors.Is(err, operate.ErrGone) {
		return nothing("somebody was faster; replayer audit tells who", "%w", err)
	}
	if err != nil {
		return err
	}
	b.task.Body, err = b.c.revise(ctx, found)
	return err
}

func (b *bulk) report(plan operate.Plan, result operate.Result, stopped error) error {
	if b.c.json {
		why := ""
		if stopped != nil {
			why = stopped.Error()
		}
		return b.c.object(b.result(plan, result, why))
	}
	text := fmt.Sprintf("%s %d of %d in %s", b.past, result.Fates[operate.FateDone], plan.Count, terminal.Short(result.Took))
	for _, other := range []struct {
		fate operate.Fate
		text string
	}{
		{operate.FateTaken, "%d were taken by somebody else meanwhile"},
		{operate.FateSuperseded, "%d had moved on: only the item was deleted"},
		{operate.FateDue, "%d were due already"},
		{operate.FateUnreadable, "%d cannot be read"},
		{operate.FateFailed, "%d failed"},
	} {
		if n := result.Fates[other.fate]; n > 0 {
			text += "; " + fmt.Sprintf(other.text, n)
		}
	}
	if plan.Count == 1 && len(plan.Identities) == 1 {
		text += ": " + nameOf(plan.Identities[0])
	}
	return b.c.printf("%s\n", text)
}

// nameOf is how a person names one request.
func nameOf(i fetchworker.Identity) string {
	return i.Agent + "/" + i.ID + " --provider " + i.Provider + " --operation " + i.Operation
}

// resultLine is the last --json line of a bulk act.
type resultLine struct {
	Kind       string  `json:"kind"` // result
	Action     string  `json:"action"`
	Matched    int     `json:"matched"`
	Done       int     `json:"done"`
	Taken      int     `json:"taken"`
	Superseded int     `json:"superseded"`
	AlreadyDue int     `json:"already_due"`
	Unreadable int     `json:"unreadable"`
	Failed     int     `json:"failed"` // the server refuses what it would need
	Seconds    float64 `json:"seconds"`
	Stopped    string  `json:"stopped,omitempty"` // why, if before the end
}

func (b *bulk) result(plan operate.Plan, r operate.Result, stopped string) resultLine {
	return resultLine{
		Kind: "result", Action: b.verb, Matched: plan.Count + plan.Due, Done: r.Fates[operate.FateDone],
		Taken: r.Fates[operate.FateTaken], Superseded: r.Fates[operate.FateSuperseded], Failed: r.Fates[operate.FateFailed], AlreadyDue: max(plan.Due, r.Fates[operate.FateDue]),
		Unreadable: plan.Unreadable, Seconds: r.Took.Seconds(), Stopped: stopped,
	}
}
