package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/terminal"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
)

func (c *cli) cmdResult() *cobra.Command {
	wait := false
	cmd := &cobra.Command{
		Use:   "result [PROVIDER OPERATION] ID",
		Short: "Print the stored answer of a request",
		Example: `  fetch result q-17
  fetch result fmp quote q-17 --wait`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 3 {
				return errors.New("an ID is needed, alone or with PROVIDER and OPERATION")
			}
			return nil
		},
		RunE: c.do(func(cmd *cobra.Command, args []string) error { return c.result(cmd.Context(), args, wait) }),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the final one")
	return cmd
}

func (c *cli) result(ctx context.Context, args []string, wait bool) error {
	l, err := c.connect()
	if err != nil {
		return err
	}
	defer l.close()
	looking, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	id, err := l.identity(looking, args)
	if err != nil {
		return err
	}
	get := func() (fetchworker.Answer, error) { return l.Result(looking, id) }
	if wait {
		get = func() (fetchworker.Answer, error) { return l.Wait(ctx, id) }
	}
	a, err := get()
	switch {
	case errors.Is(err, fetchworker.ErrNoAnswer):
		return fmt.Errorf("%w: nothing is stored for %s: never asked, not answered yet, or aged out", errPending, id)
	case err != nil:
		return ended(err)
	case a.Final:
		return c.show(a, 0)
	}
	if c.json {
		if err := c.object(asShown(a)); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %s", errPending, statusLine(a, 0))
}

// identity is a request's, of its words or found by its id alone.
func (l *link) identity(ctx context.Context, args []string) (fetchworker.Identity, error) {
	id := fetchworker.Identity{Agent: l.Agent(), ID: args[len(args)-1]}
	if !fetchworker.ValidID(id.ID) {
		return id, fmt.Errorf("%w: an id is 1 to 64 of A-Z a-z 0-9 _ -", errUsage)
	}
	if len(args) > 1 {
		id.Provider, id.Operation = args[0], args[1]
		return id, nil
	}
	// Of its own answers an agent may ask by a pattern: the newest that fits.
	subject := "$JS.API.DIRECT.GET." + fetchworker.StreamResults + ".fetch.result.*.*." + id.Agent + "." + id.ID
	m, err := l.nc.RequestWithContext(ctx, subject, nil)
	if err != nil {
		return id, fmt.Errorf("%w: look for %s: %w", errServer, id.ID, err)
	}
	stored := m.Header.Values("Nats-Subject")
	if len(stored) == 0 {
		return id, fmt.Errorf("%w: nothing is stored for %s of %s: never asked, not answered yet, or aged out", errPending, id.ID, id.Agent)
	}
	address, err := wire.ParseSubject(stored[len(stored)-1])
	return address.Identity, err
}

func (c *cli) cmdWatch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch [PROVIDER [OPERATION]]",
		Short: "Show your answers as they come, a line each",
		Args:  cobra.MaximumNArgs(wordsNeeded), ValidArgsFunction: c.complete,
		RunE: c.do(func(cmd *cobra.Command, args []string) error { return c.watch(cmd.Context(), args) }),
	}
}

func (c *cli) watch(ctx context.Context, args []string) error {
	l, err := c.connect()
	if err != nil {
		return err
	}
	defer l.close()
	which := []string{"*", "*"}
	for i, word := range args {
		if !fetchworker.ValidToken(word) {
			return c.advise(ctx, args, fmt.Errorf("%w: %q is no name", errUsage, word))
		}
		which[i] = word
	}
	came := make(chan *nats.Msg, 1024)
	sub, err := l.nc.ChanSubscribe("fetch.result."+strings.Join(which, ".")+"."+l.Agent()+".*", came)
	if err != nil {
		return fmt.Errorf("%w: %w", errServer, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := c.tell("watching the answers of %s; Ctrl-C ends it\n", l.Agent()); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-came:
			a, err := fetchworker.DecodeAnswer(m.Subject, m.Header, m.Data)
			if err != nil {
				continue // of another version
			}
			if c.json {
				err = c.object(asShown(a))
			} else {
				err = terminal.Printf(c.out, "%s  %s/%s %s  %s\n", time.Now().Format(time.TimeOnly), a.Identity.Provider, a.Identity.Operation, a.Identity.ID, statusLine(a, 0))
			}
			if err != nil {
				return err
			}
		}
	}
}

func (c *cli) cmdCancel() *cobra.Command {
	var all bool
	var f fetchworker.CancelFilter
	cmd := &cobra.Command{
		Use:   "cancel [PROVIDER OPERATION] ID... | cancel PROVIDER --all",
		Short: "Cancel requests: no call begins for them any more",
		Example: `  fetch cancel fmp quote q-17 q-18
  fetch cancel fmp --all --lane batch`,
		Args: cobra.MinimumNArgs(1),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			l, err := c.connect()
			if err != nil {
				return err
			}
			defer l.close()
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			if all {
				return c.cancelAll(ctx, l, f, args)
			}
			return c.cancel(ctx, l, args)
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "everything of the provider that has no final answer")
	cmd.Flags().StringVar(&f.Operation, "operation", "", "with --all: of this operation only")
	cmd.Flags().StringVar((*string)(&f.Lane), "lane", "", "with --all: of this lane only")
	return cmd
}

func (c *cli) cancelAll(ctx context.Context, l *link, f fetchworker.CancelFilter, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: --all wants one PROVIDER, and --operation for one operation", errUsage)
	}
	f.Provider = args[0]
	before, err := l.CancelAll(ctx, f)
	if err != nil {
		return c.advise(ctx, args, ended(err))
	}
	if c.json {
		return c.object(map[string]time.Time{"before": before})
	}
	return terminal.Printf(c.out, "cancelled: whatever %s asked of %s before %s\n", l.Agent(), f.Provider, before.UTC().Format(time.RFC3339))
}

func (c *cli) cancel(ctx context.Context, l *link, args []string) error {
	var ids []fetchworker.Identity
	if len(args) >= 3 && fetchworker.ValidToken(args[0]) && fetchworker.ValidToken(args[1]) {
		for _, id := range args[wordsNeeded:] {
			ids = append(ids, fetchworker.Identity{Provider: args[0], Operation: args[1], ID: id})
		}
	} else {
		for _, word := range args {
			id, err := l.identity(ctx, []string{word})
			if err != nil {
				return fmt.Errorf("%w; PROVIDER and OPERATION before the ids name them where nothing is stored yet", err)
			}
			ids = append(ids, id)
		}
	}
	done, err := l.Cancel(ctx, ids...)
	if err != nil {
		return ended(err)
	}
	if c.json {
		return c.object(map[string]int{"cancelled": done.Cancelled, "final": done.Final})
	}
	return terminal.Printf(c.out, "%d cancelled, %d had their final answer already\n", done.Cancelled, done.Final)
}
