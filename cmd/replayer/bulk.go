package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fetchworker/internal/browse"
	"fetchworker/internal/operate"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// bulk is one act on everything that a selection matches: planned, confirmed,
// paced, watched. It walks the stream twice, once to plan and once to act, so
// its memory does not grow with what it matches.
type bulk struct {
	c         *cli
	l         *link
	fleet     *fleet
	selection *selection

	verb, past string // replay, replayed
	stream     string
	// skip says that there is nothing to do for a message; it is counted.
	skip func(browse.Found) bool
	act  func(context.Context, browse.Found) (operate.Fate, error)
	// work says that the act sends messages to the workers: then permits, the
	// circuit and the answers matter.
	work bool
	// refuseShut says that a provider which is paused or whose circuit is open
	// is refused; else it is only told.
	refuseShut bool

	// edit says that the one message is to be edited before the act.
	edit   bool
	edited []byte

	edge    browse.Edge
	options pace

	mu    sync.Mutex // guards fates
	fates map[operate.Fate]int
}

// pace is how a bulk act is to be done.
type pace struct {
	dryRun, yes bool
	rate        string
	perSecond   float64 // 0: as fast as possible
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

func (p *pace) resolve() error {
	var err error
	if p.perSecond, err = parseRate(p.rate); err != nil {
		return err
	}
	if p.canary < 0 {
		return misused("give a number from 1, or leave it out", "--canary %d is negative", p.canary)
	}
	if p.canary > 0 && !(p.minSuccess > 0 && p.minSuccess <= 1) {
		return misused("give a share such as 0.9", "--min-success %v is not between 0 and 1", p.minSuccess)
	}
	return nil
}

const parallel = 16 // acts under way; more only wait for each other's fsync

// run plans, asks and acts.
func (b *bulk) run(ctx context.Context) error {
	if b.selection.filter.Empty() && b.selection.limit == 0 && !b.selection.all {
		return misused("give a filter such as --provider, or --all", "%s needs to know which messages", b.verb)
	}
	if err := b.options.resolve(); err != nil {
		return err
	}
	var err error
	if b.edge, err = b.l.Edge(ctx, b.stream); err != nil {
		return err
	}
	plan, err := b.plan(ctx)
	if err != nil {
		return err
	}
	if plan.Count == 0 {
		return b.nothingToDo(plan)
	}
	// One message needs no plan, unless that is all that was asked for.
	if plan.Count > 1 || b.options.dryRun {
		if err := b.printPlan(plan); err != nil {
			return err
		}
	}
	if err := b.warn(ctx, plan); err != nil || b.options.dryRun {
		return err
	}
	if b.edit {
		if err := b.revise(ctx, plan); err != nil {
			return err
		}
	}
	if plan.Count > 1 && !b.options.yes {
		if err := b.c.confirm(ctx, b.verb, plan.Count); err != nil {
			return err
		}
	}
	return b.execute(ctx, plan)
}

// tally is a plan with those that need no act.
type tally struct {
	operate.Plan
	Skipped int
	More    bool // --limit leaves some out
}

// plan walks everything once and changes nothing.
func (b *bulk) plan(ctx context.Context) (tally, error) {
	p := b.c.progress("reading", 0)
	defer p.close()
	var plan tally
	for found, err := range b.matching(ctx) {
		if err != nil {
			return plan, err
		}
		p.add()
		switch {
		case found.Fault == nil && b.skip != nil && b.skip(found):
			plan.Skipped++
		case b.selection.limit > 0 && plan.Count == b.selection.limit:
			plan.More = true
			return plan, nil
		default:
			plan.Add(found)
		}
	}
	return plan, nil
}

func (b *bulk) matching(ctx context.Context) func(func(browse.Found, error) bool) {
	return b.l.Walk(ctx, b.stream, b.selection.filter, b.edge)
}

func (b *bulk) nothingToDo(plan tally) error {
	switch {
	case plan.Skipped > 0 && b.c.json:
		return b.c.object(b.result(plan, 0, ""))
	case plan.Skipped > 0:
		return b.c.printf("nothing to %s: %d are due already, and go by themselves\n", b.verb, plan.Skipped)
	case plan.Unreadable > 0:
		return failed("look at them with replayer list; remove them with nats stream rmmsg", "the headers of all %d that match cannot be read", plan.Unreadable)
	default:
		return nothing("widen the filters; replayer status shows what there is", "nothing matched")
	}
}

// warn refuses what should not be done now, and tells what will hold it up.
func (b *bulk) warn(ctx context.Context, plan tally) error {
	if plan.Unreadable > 0 {
		b.c.sayf("note: %d messages cannot be read and are left alone", plan.Unreadable)
	}
	if !b.work {
		return nil
	}
	for provider := range plan.Providers {
		if shut := b.fleet.shut(provider); shut != "" {
			if b.refuseShut && !b.options.dryRun {
				return failed("wait for it; or choose others with --provider; replayer status shows what is open", "%s refused: %s", b.verb, shut)
			}
			b.c.sayf("note: %s", shut)
		} else if slow := b.fleet.slow(provider); slow != "" {
			b.c.sayf("note: %s", slow)
		}
	}
	if b.options.dryRun {
		return nil
	}
	running, err := b.l.replayers(ctx)
	if err != nil {
		return err
	}
	if !running {
		b.c.sayf("note: no replayer runs: the letters stay due until one does (replayer run)")
	}
	return nil
}

// execute acts on each, in order of age, at most at the rate.
func (b *bulk) execute(ctx context.Context, plan tally) error {
	b.fates = make(map[operate.Fate]int)
	began := time.Now()
	limiter := rate.NewLimiter(rate.Limit(b.options.perSecond), 1)
	if b.options.perSecond == 0 {
		limiter.SetLimit(rate.Inf)
	}
	p := b.c.progress(b.verb, plan.Count)
	defer p.close()
	group, acting := newGroup(ctx)
	var stopped error
	started := 0
	var canary []browse.Found
	for found, err := range b.matching(ctx) {
		if err != nil {
			stopped = err
			break
		}
		if found.Fault != nil {
			continue
		}
		if b.skip != nil && b.skip(found) {
			b.count(operate.FateDue)
			continue
		}
		if started == b.canaries(plan) {
			if stopped = group.Wait(); stopped == nil {
				stopped = b.watchCanary(ctx, canary, p)
			}
			if stopped != nil {
				break
			}
			group, acting = newGroup(ctx)
		}
		if b.selection.limit > 0 && started == b.selection.limit {
			break
		}
		if stopped = b.mayGo(acting, found.Provider, limiter); stopped != nil {
			break
		}
		started++
		if len(canary) < b.options.canary {
			canary = append(canary, found)
		}
		group.Go(func() error {
			// What was begun is finished: Ctrl-C stops between messages.
			fate, err := b.act(b.l.acting, found)
			if err != nil {
				return err
			}
			b.count(fate)
			p.add()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		stopped = err
	}
	p.close()
	return b.report(plan, time.Since(began), stopped)
}

// revise lets the person edit the one message.
func (b *bulk) revise(ctx context.Context, plan tally) error {
	if plan.Count != 1 {
		return misused("name one with AGENT/ID, --provider and --operation", "--edit takes one message, and %d match", plan.Count)
	}
	for found, err := range b.matching(ctx) {
		if err != nil {
			return err
		}
		if found.Fault == nil {
			b.edited, err = b.c.revise(ctx, found)
			return err
		}
	}
	return nothing("somebody was faster; replayer audit tells who", "it is gone")
}

func newGroup(ctx context.Context) (*errgroup.Group, context.Context) {
	group, acting := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	return group, acting
}

// mayGo waits for a message's turn, and stops when its provider has failed
// meanwhile.
func (b *bulk) mayGo(ctx context.Context, provider string, limiter *rate.Limiter) error {
	if err := limiter.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	if b.refuseShut {
		if shut := b.fleet.shut(provider); shut != "" {
			return failed("nothing is lost: run it again when replayer status shows the provider open", "stopped: %s", shut)
		}
	}
	return nil
}

func (b *bulk) count(f operate.Fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fates[f]++
}

// report says what was done, also when it stopped early.
func (b *bulk) report(plan tally, took time.Duration, stopped error) error {
	if b.c.json {
		why := ""
		if stopped != nil {
			why = stopped.Error()
		}
		if err := b.c.object(b.result(plan, took, why)); err != nil {
			return err
		}
	} else {
		text := fmt.Sprintf("%s %d of %d in %s", b.past, b.fates[operate.FateDone], plan.Count, short(took))
		for _, other := range []struct {
			fate operate.Fate
			text string
		}{
			{operate.FateTaken, "%d were taken by somebody else meanwhile"},
			{operate.FateSuperseded, "%d had moved on: only the item was deleted"},
			{operate.FateDue, "%d were due already"},
		} {
			if n := b.fates[other.fate]; n > 0 {
				text += "; " + fmt.Sprintf(other.text, n)
			}
		}
		if err := b.c.printf("%s\n", text); err != nil {
			return err
		}
	}
	return stopped
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
	Seconds    float64 `json:"seconds"`
	Stopped    string  `json:"stopped,omitempty"` // why, if before the end
}

func (b *bulk) result(plan tally, took time.Duration, stopped string) resultLine {
	return resultLine{
		Kind: "result", Action: b.verb, Matched: plan.Count + plan.Skipped, Done: b.fates[operate.FateDone],
		Taken: b.fates[operate.FateTaken], Superseded: b.fates[operate.FateSuperseded], AlreadyDue: max(plan.Skipped, b.fates[operate.FateDue]),
		Unreadable: plan.Unreadable, Seconds: took.Seconds(), Stopped: stopped,
	}
}
