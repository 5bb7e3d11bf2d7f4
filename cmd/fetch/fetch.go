package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fetchworker"

	"github.com/spf13/cobra"
)

// one asks for one thing and prints its final answer, or what is known when
// the time is over.
func (c *cli) one(cmd *cobra.Command, args []string) error {
	r, err := c.request(cmd, args)
	if err != nil {
		return c.advise(cmd.Context(), args, err)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	l, err := c.connect()
	if err != nil {
		return err
	}
	defer l.close()
	if r.ID == "" {
		r.ID = fetchworker.NewID() // known here, so that it can be told
	}
	began := time.Now()
	receipt, err := l.Submit(ctx, r)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: after %v there is no receipt; --id %s asks again safely: %w", errPending, c.timeout, r.ID, err)
	case err != nil:
		return c.advise(cmd.Context(), args, ended(err))
	}
	if err := c.tell("asked as %s, id %s\n", l.Agent(), r.ID); err != nil {
		return err
	}
	digest := fetchworker.RequestDigest(r.Operation, r.Params)
	for a, err := range l.Updates(ctx, receipt.Identity) {
		switch {
		case err != nil:
			return c.unanswered(a, r.ID, err)
		case a.Digest != "" && a.Digest != digest:
			return fmt.Errorf("%w: --id %s", fetchworker.ErrIDReused, r.ID)
		case a.Final:
			return c.advise(cmd.Context(), args, c.show(a, time.Since(began)))
		}
		if err := c.tell("%s\n", statusLine(a, 0)); err != nil {
			return err
		}
	}
	return errPending
}

// unanswered is the error of a request that has no final answer yet.
func (c *cli) unanswered(a fetchworker.Answer, id string, err error) error {
	var pending *fetchworker.PendingError
	if !errors.As(err, &pending) {
		return ended(err)
	}
	why := "no answer yet"
	if pending.Last != nil {
		why = statusLine(*pending.Last, 0)
		a = *pending.Last
	}
	if c.json {
		a.Identity = pending.Identity
		if a.Status == "" {
			a.Status = fetchworker.StatusWaiting
		}
		if err := c.object(asShown(a)); err != nil {
			return err
		}
	}
	after := "interrupted"
	if errors.Is(err, context.DeadlineExceeded) {
		after = fmt.Sprintf("after %v", c.timeout)
	}
	return fmt.Errorf("%w: %s: %s. The request goes on; --id %s asks for its answer again", errPending, after, why, id)
}
