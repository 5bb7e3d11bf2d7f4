package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/nearest"
	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

func (c *cli) cmdOps() *cobra.Command {
	return &cobra.Command{
		Use:   "ops [PROVIDER [OPERATION]]",
		Short: "List what the running fleet can be asked for",
		Example: `  fetch ops
  fetch ops fmp
  fetch ops fmp quote`,
		Args: cobra.MaximumNArgs(wordsNeeded), ValidArgsFunction: c.complete,
		RunE: c.do(func(cmd *cobra.Command, args []string) error { return c.ops(cmd.Context(), args) }),
	}
}

// ops tells of all providers, of one, or of one operation.
func (c *cli) ops(ctx context.Context, args []string) error {
	l, err := c.connect()
	if err != nil {
		return err
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if len(args) == 0 {
		names, err := l.Providers(ctx)
		if err != nil {
			return ended(err)
		}
		if c.json {
			return c.object(map[string][]string{"providers": names})
		}
		for _, name := range names {
			told, err := l.Catalogue(ctx, name)
			if err != nil {
				return ended(err)
			}
			state := ""
			if !told.Configured {
				state = "  (no key here)"
			}
			if err := terminal.Printf(c.out, "%s%s: %s\n", name, state, strings.Join(operations(told), ", ")); err != nil {
				return err
			}
		}
		return nil
	}
	told, err := l.Catalogue(ctx, args[0])
	if err != nil {
		return c.advise(ctx, args, ended(err))
	}
	if len(args) > 1 {
		i := slices.IndexFunc(told.Operations, func(o fetchworker.CatalogueOperation) bool { return o.Name == args[1] })
		if i < 0 {
			return fmt.Errorf("%w: %s", errUsage, unknownOperation(told, args[1]))
		}
		told.Operations = told.Operations[i : i+1]
	}
	if c.json {
		return c.object(told)
	}
	for _, o := range told.Operations {
		if err := c.operation(told.Provider, o); err != nil {
			return err
		}
	}
	return nil
}

// schema is what the command line shows of a JSON Schema.
type schema struct {
	Properties map[string]struct {
		Description string `json:"description"`
		Default     string `json:"default"`
	} `json:"properties"`
	Required []string `json:"required"`
}

func paramsOf(o fetchworker.CatalogueOperation) (s schema) {
	_ = json.Unmarshal(o.Params, &s) // what cannot be read is not shown
	return s
}

// names are the parameters, those that are needed first.
func (s schema) names() []string {
	names := slices.Sorted(maps.Keys(s.Properties))
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(slices.Index(s.Required, b), slices.Index(s.Required, a))
	})
	return names
}

func (c *cli) operation(provider string, o fetchworker.CatalogueOperation) error {
	s := paramsOf(o)
	line := "fetch " + provider + " " + o.Name
	for _, name := range s.names() {
		if slices.Contains(s.Required, name) {
			line += " " + name + "=…"
		} else {
			line += " [" + name + "=…]"
		}
	}
	if err := terminal.Printf(c.out, "%s\n", line); err != nil {
		return err
	}
	for _, name := range s.names() {
		p := s.Properties[name]
		text := p.Description
		if p.Default != "" {
			text += " (default " + p.Default + ")"
		}
		if err := terminal.Printf(c.out, "    %-14s %s\n", name, text); err != nil {
			return err
		}
	}
	return nil
}

func operations(told fetchworker.Catalogue) []string {
	names := make([]string, 0, len(told.Operations))
	for _, o := range told.Operations {
		names = append(names, o.Name)
	}
	return names
}

func meant(written string, words []string) string {
	if word := nearest.Of(written, words); word != "" {
		return "did you mean " + word + "? "
	}
	return ""
}

func unknownOperation(told fetchworker.Catalogue, name string) string {
	return fmt.Sprintf("%s has no operation %s: %sit has %s", told.Provider, name, meant(name, operations(told)), strings.Join(nearest.Sorted(name, operations(told)), ", "))
}

// advise adds to an error what was probably meant, as far as the fleet can be
// asked. What was right is not asked about.
func (c *cli) advise(ctx context.Context, args []string, err error) error {
	if err == nil || len(args) == 0 || !errors.Is(err, errUsage) && !errors.Is(err, errFailed) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	advice := c.advice(ctx, args)
	if advice == "" {
		return err
	}
	if errors.Is(err, errTold) {
		return errors.Join(c.tell("%s\n", advice), err)
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(advice))
}

// advice is what is wrong with provider, operation or parameters by what the
// fleet says of them.
func (c *cli) advice(ctx context.Context, args []string) string {
	l, err := c.connect()
	if err != nil {
		return ""
	}
	defer l.close()
	names, err := l.Providers(ctx)
	if err != nil {
		return ""
	}
	if !slices.Contains(names, args[0]) {
		return meant(args[0], names) + "the providers are " + strings.Join(names, ", ")
	}
	told, err := l.Catalogue(ctx, args[0])
	if err != nil || len(args) < wordsNeeded {
		return ""
	}
	i := slices.IndexFunc(told.Operations, func(o fetchworker.CatalogueOperation) bool { return o.Name == args[1] })
	if i < 0 {
		return unknownOperation(told, args[1])
	}
	s := paramsOf(told.Operations[i])
	for _, pair := range args[wordsNeeded:] {
		name, _, paired := strings.Cut(pair, "=")
		switch _, known := s.Properties[name]; {
		case !paired && len(s.Required) > 0:
			return fmt.Sprintf("did you mean %s=%s?", s.Required[0], pair)
		case paired && !known:
			return fmt.Sprintf("%s is no parameter of %s: %sit takes %s", name, args[1], meant(name, s.names()), strings.Join(s.names(), ", "))
		}
	}
	return ""
}

// complete completes providers, operations and parameters from the fleet.
func (c *cli) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const nothing = cobra.ShellCompDirectiveNoFileComp
	l, err := c.connect()
	if err != nil {
		return nil, nothing
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 2*time.Second)
	defer cancel()
	if len(args) == 0 {
		names, _ := l.Providers(ctx)
		return names, nothing
	}
	told, err := l.Catalogue(ctx, args[0])
	if err != nil {
		return nil, nothing
	}
	if len(args) == 1 {
		return operations(told), nothing
	}
	for _, o := range told.Operations {
		if o.Name == args[1] {
			var names []string
			for _, name := range paramsOf(o).names() {
				names = append(names, name+"=")
			}
			return names, nothing | cobra.ShellCompDirectiveNoSpace
		}
	}
	return nil, nothing
}
