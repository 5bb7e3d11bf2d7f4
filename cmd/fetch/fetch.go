package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/synadia-io/orbit.go/natscontext"
)

var (
	errUsage  = errors.New("usage")
	errFailed = errors.New("the answer is a failure")
)

// wordsNeeded are PROVIDER and OPERATION.
const wordsNeeded = 2

// options are the flags.
type options struct {
	agent, lane, id        string
	ttl, maxStale, timeout time.Duration
	maxAge                 time.Duration
	use                    []string
	json                   bool
}

// run is the whole program; tests call it as main does.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	var o options
	started := false
	cmd := &cobra.Command{
		Use:   "fetch PROVIDER OPERATION [name=value ...]",
		Short: "Ask fetchworker for one thing and print the answer",
		Long: `fetch publishes a request, waits for its final answer, writes the body to
standard output and one line about it to standard error.

The server is NATS_URL (default ` + nats.DefaultURL + `), with NATS_CREDS, or the
natscli context NATS_CONTEXT.

Exit codes: 0 an answer (ok or stale), 1 a failed answer or an error, 2 usage.`,
		Example: `  fetch fmp quote symbol=AAPL
  fetch polygon aggregates symbol=AAPL from=2026-02-09 to=2026-02-13 --max-stale 24h
  fetch fmp get path=/quote/AAPL
  fetch fred series series_id=GDP --json | jq .body`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < wordsNeeded {
				return errors.New("PROVIDER and OPERATION are needed")
			}
			return nil
		},
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			started = true
			r, err := o.request(cmd, args)
			if err != nil {
				return fmt.Errorf("%w: %w", errUsage, err)
			}
			return fetch(ctx, r, o, getenv, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.agent, "agent", "", "`name` to ask as (default: the NATS user, else cli)")
	f.StringVar(&o.lane, "lane", "interactive", "interactive, or batch for what can wait")
	f.StringVar(&o.id, "id", "", "request `id`: asked again under it, the stored answer comes back (default: a new one)")
	f.DurationVar(&o.ttl, "ttl", 0, "give up the request after this long (default: never)")
	f.DurationVar(&o.maxAge, "max-age", 0, "take a cached body this young; 0s always calls the provider (default: the operation's)")
	f.DurationVar(&o.maxStale, "max-stale", 0, "take a stale body this old when the provider cannot be asked")
	f.StringSliceVar(&o.use, "use", nil, "what the data is for (a `list`), such as export; checked against your rights")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait here; the request goes on after it")
	f.BoolVar(&o.json, "json", false, "print one JSON object with status, headers and body")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err != nil && !started { // arguments and flags are cobra's to judge
		return fmt.Errorf("%w: %w (fetch --help tells more)", errUsage, err)
	}
	return err
}

// request is what the arguments and flags ask for.
func (o *options) request(cmd *cobra.Command, args []string) (fetchworker.Request, error) {
	params, err := fetchworker.ParamsFrom(args[wordsNeeded:])
	if err != nil {
		return fetchworker.Request{}, err
	}
	r := fetchworker.Request{
		Provider: args[0], Operation: args[1], Lane: fetchworker.Lane(o.lane), ID: o.id,
		Params: params, TTL: fetchworker.Duration(o.ttl), Use: o.use,
	}
	if cmd.Flags().Changed("max-age") {
		age := fetchworker.Duration(o.maxAge)
		r.MaxAge = &age
	}
	if cmd.Flags().Changed("max-stale") {
		age := fetchworker.Duration(o.maxStale)
		r.MaxStale = &age
	}
	if o.ttl < 0 || o.maxAge < 0 || o.maxStale < 0 || o.timeout <= 0 {
		return r, errors.New("a duration cannot be negative, and the timeout must be more than nothing")
	}
	return r, nil
}

// fetch asks and prints the final answer, or what is known when the time is
// over.
func fetch(ctx context.Context, r fetchworker.Request, o options, getenv func(string) string, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	// The server tells a refused permission beside the request, which would
	// wait for its acknowledgement in vain.
	nc, user, err := connect(getenv, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			refuse(err)
		}
	}))
	if err != nil {
		return err
	}
	defer nc.Close()
	r.Agent = o.agent
	if r.Agent == "" {
		r.Agent = user
	}
	client, err := fetchworker.NewClient(nc, r.Agent)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if r.ID == "" {
		r.ID = fetchworker.NewID() // known here, so that it can be told
	}
	a, err := client.Fetch(ctx, r)
	var wrong *fetchworker.RequestError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("%w: %w", errUsage, err)
	case errors.Is(context.Cause(ctx), nats.ErrPermissionViolation):
		return fmt.Errorf("agent %s: %w", r.Agent, context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		return unanswered(ctx, client, r, o)
	case err != nil:
		return err
	}
	return show(a, o.json, stdout, stderr)
}

// unanswered is the error of a request that has no final answer yet.
func unanswered(ctx context.Context, client *fetchworker.Client, r fetchworker.Request, o options) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	why := "no answer yet"
	if a, err := client.Result(ctx, r.Identity()); err == nil {
		why = statusLine(a)
	}
	return fmt.Errorf("after %v: %s. The request goes on; --id %s asks for its answer again", o.timeout, why, r.ID)
}

// connect joins the server that the environment names, as natscli does, and
// tells the user's name if it is one that an agent can have.
func connect(getenv func(string) string, options ...nats.Option) (nc *nats.Conn, user string, err error) {
	options = append(options, nats.Name("fetch"), nats.MaxReconnects(-1), nats.Timeout(5*time.Second))
	if creds := getenv("NATS_CREDS"); creds != "" {
		options = append(options, nats.UserCredentials(creds))
	}
	server, named := getenv("NATS_URL"), getenv("NATS_CONTEXT")
	if server == "" && named != "" {
		var settings natscontext.Settings
		nc, settings, err = natscontext.Connect(named, options...)
		user = settings.User
	} else {
		if server == "" {
			server = nats.DefaultURL
		}
		user = userOf(server)
		nc, err = nats.Connect(server, options...)
	}
	if err != nil {
		return nil, "", fmt.Errorf("connect to NATS: %w (is the worker running? NATS_URL or NATS_CONTEXT names its server)", err)
	}
	if !fetchworker.ValidToken(user) {
		user = "cli"
	}
	return nc, user, nil
}

// userOf is the user that a server's address names. One without a password is
// no name but a token: a secret, which nobody else may see.
func userOf(server string) string {
	first, _, _ := strings.Cut(server, ",")
	u, err := url.Parse(first)
	if err != nil || u.User == nil {
		return ""
	}
	if _, named := u.User.Password(); !named {
		return ""
	}
	return u.User.Username()
}
