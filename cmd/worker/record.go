package main

import (
	"context"
	"fmt"
	"io"

	"fetchworker"
	"fetchworker/internal/providers"
)

// recordExchange makes one call with the operator's key and prints the
// exchange, redacted, in the form of the files in testdata. It asks nobody
// for a permit: it is for a person who adds a test, not for a script.
func recordExchange(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	params, err := fetchworker.ParamsFrom(args[wordsNeeded:])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	set, err := providers.Load(getenv)
	if err != nil {
		return err
	}
	defer set.Close()
	p, ok := set.Provider(args[0])
	switch {
	case !ok:
		return fmt.Errorf("%w: there is no provider %q", errUsage, args[0])
	case !p.Configured():
		return fmt.Errorf("the key of %s is not set", p.Name)
	}
	call, err := p.Plan(args[1], params)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	_, err = p.Record(ctx, call, stdout)
	return err
}
