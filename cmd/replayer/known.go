package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"fetchworker"
	"fetchworker/internal/nearest"
	"fetchworker/internal/operate"

	"github.com/spf13/cobra"
)

// providersOf are all names that a person may mean: served, asked for, or
// known to a worker without a key.
func providersOf(ctx context.Context, f *operate.Fleet) ([]string, error) {
	survey, err := f.Survey(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, p := range append(survey.Providers, survey.Unserved.Names...) {
		names[p] = true
	}
	for p := range f.Keyless() {
		names[p] = true
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// known refuses names that nobody serves and nothing is stored of.
func (c *cli) known(ctx context.Context, f *operate.Fleet, providers ...string) error {
	for _, p := range providers {
		if !fetchworker.ValidToken(p) {
			return misused("give the name as replayer status shows it", "%q is no provider: 1 to 32 of a-z 0-9 _ -", p)
		}
	}
	names, err := providersOf(ctx, f)
	if err != nil {
		return err
	}
	for _, p := range providers {
		if !slices.Contains(names, p) {
			return unknown(p, names)
		}
	}
	return nil
}

// unmatched says that a filter matched nothing; where it names a provider that
// nobody knows, or an agent that has never used any, that is why.
func (c *cli) unmatched(ctx context.Context, l *link, f *operate.Fleet, provider, agent string, otherwise error) error {
	if provider != "" {
		if err := c.known(ctx, f, provider); err != nil {
			return err
		}
	}
	if agent == "" {
		return otherwise
	}
	rows, err := l.Usage(ctx, operate.UsageFilter{})
	if err != nil {
		return otherwise // nobody counts, or the server does not say
	}
	agents := map[string]bool{}
	for _, u := range rows {
		agents[u.Agent] = true
	}
	if meant := nearest.Of(agent, slices.Sorted(maps.Keys(agents))); meant != "" && !agents[agent] {
		return nothing("did you mean "+meant+"?", "nothing matched, and no agent %s has used anything yet", agent)
	}
	return otherwise
}

// unmatchedHere is unmatched where no fleet is at hand.
func (c *cli) unmatchedHere(ctx context.Context, l *link, provider, agent string, otherwise error) error {
	f, err := l.Fleet(ctx)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.unmatched(ctx, l, f, provider, agent, otherwise)
}

// oneOf says which words there are, and which was probably meant.
func oneOf(written string, words []string) string {
	next := "give one of " + strings.Join(words, ", ")
	if meant := nearest.Of(written, words); meant != "" {
		return "did you mean " + meant + "? " + next
	}
	return next
}

// errUnmatched is what a list says that is empty.
func errUnmatched() error {
	return nothing("widen the filters; replayer status shows what there is", "nothing matched")
}

func unknown(provider string, names []string) error {
	next := "replayer status lists the providers; a worker with a provider's key set, or a request, makes it known"
	if meant := nearest.Of(provider, names); meant != "" {
		next = "did you mean " + meant + "?"
	}
	return nothing(next, "no provider %s; %s", provider, nearest.There(provider, names))
}

// completeProviders completes the names of the fleet that is connected to.
func (c *cli) completeProviders(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, l, done, err := c.connect(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer done()
	f, err := l.Fleet(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer f.Close()
	names, _ := providersOf(ctx, f) // none is offered then
	return names, cobra.ShellCompDirectiveNoFileComp
}
