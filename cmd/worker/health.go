package main

import (
	"context"
	"fmt"
	"io"

	"fetchworker/internal/app"
)

// health asks the worker of this machine whether it is ready.
func health(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	config, err := app.Load(getenv)
	if err != nil {
		return err
	}
	says, err := app.AskReady(ctx, config.HTTPAddr)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, says)
	return err
}
