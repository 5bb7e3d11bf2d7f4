package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/terminal"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
)

// wordsNeeded are PROVIDER and OPERATION.
const wordsNeeded = 2

// cli is one run of the program.
type cli struct {
	address
	out, errs io.Writer
	started   bool // the arguments and flags were right
	json      bool

	lane, id               string
	ttl, maxStale, timeout time.Duration
	maxAge                 time.Duration
	use                    []string
	from, to               string
	parallel               int
}

// run is the whole program; tests call it as main does.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	c := &cli{address: address{getenv: getenv}, out: stdout, errs: stderr}
	root := c.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !c.started { // arguments and flags are cobra's to judge
		return fmt.Errorf("%w: %w (fetch --help tells more)", errUsage, err)
	}
	return err
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fetch PROVIDER OPERATION [name=value ...]",
		Short: "Ask fetchworker for things and print the answers",
		Long: `fetch publishes a request, waits for its final answer, writes the body to
standard output and what happens meanwhile to standard error.

With --from it asks for many things: a request a line (JSON), or the rows of a
CSV file whose first row names the parameters. With --out the answers go to a
file, a line each; interrupted or killed, the same command goes on from there
and asks nothing twice.

The server is --server, NATS_URL (default ` + nats.DefaultURL + `), or the natscli
context of --context or NATS_CONTEXT; with --creds or NATS_CREDS.

Exit codes: 0 an answer (ok or stale), 1 a failed answer or an error, 2 usage,
3 no final answer yet, 4 no server. Of many answers the worst counts.`,
		Example: `  fetch fmp quote symbol=AAPL
  fetch polygon aggregates symbol=AAPL from=2026-02-09 to=2026-02-13 --max-stale 24h
  fetch fmp get path=/quote/AAPL
  fetch fred series series_id=GDP --json | jq .body
  fetch fmp quote --from symbols.csv --out answers.ndjson`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < wordsNeeded {
				return errors.New("PROVIDER and OPERATION are needed")
			}
			return nil
		},
		Version: terminal.Version("fetch", version), SilenceUsage: true, SilenceErrors: true,
		ValidArgsFunction: c.complete,
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			if c.from != "" {
				return c.many(cmd, args)
			}
			return c.one(cmd, args)
		}),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.Flags()
	f.StringVar(&c.lane, "lane", "interactive", "interactive, or batch for what can wait (with --from: batch)")
	f.StringVar(&c.id, "id", "", "request `id`: asked again under it, the stored answer comes back (default: a new one)")
	f.DurationVar(&c.ttl, "ttl", 0, "give up the request after this long (default: never)")
	f.DurationVar(&c.maxAge, "max-age", 0, "take a cached body this young; 0s always calls the provider (default: the operation's)")
	f.DurationVar(&c.maxStale, "max-stale", 0, "take a stale body this old when the provider cannot be asked")
	f.StringSliceVar(&c.use, "use", nil, "what the data is for (a `list`), such as export; checked against your rights")
	f.DurationVar(&c.timeout, "timeout", time.Minute, "how long to wait here; the request goes on after it (with --from: for ever)")
	f.StringVar(&c.from, "from", "", "ask for each line of a `file`, - for standard input: NDJSON, or CSV of parameters")
	f.StringVar(&c.to, "out", "", "with --from: write the answers to this `file`, and go on where it ends")
	f.IntVar(&c.parallel, "parallel", 1000, "with --from: at most so many requests on their way")
	p := root.PersistentFlags()
	p.StringVar(&c.agent, "agent", "", "`name` to ask as (default: the NATS user, else cli)")
	p.BoolVar(&c.json, "json", false, "print JSON objects with status, headers and body")
	p.StringVar(&c.server, "server", "", "`URL` of the NATS server")
	p.StringVar(&c.creds, "creds", "", "NATS credentials `file`")
	p.StringVar(&c.context, "context", "", "natscli context's `name`")
	if err := root.RegisterFlagCompletionFunc("lane", cobra.FixedCompletions([]string{"interactive", "batch"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is above
	}
	root.AddCommand(c.cmdOps(), c.cmdResult(), c.cmdWatch(), c.cmdCancel(), c.cmdMCP(), c.cmdVersion())
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		// fetch fmp --help tells of fmp.
		if words := words(args); cmd == root && len(words) > 0 && fetchworker.ValidToken(words[0]) && c.ops(cmd.Context(), words[:min(len(words), wordsNeeded)]) == nil {
			return
		}
		help(cmd, args)
	})
	return root
}

// words are arguments that are no flags.
func words(args []string) (words []string) {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			words = append(words, a)
		}
	}
	return words
}

// do runs a command whose arguments are right.
func (c *cli) do(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c.started = true
		return run(cmd, args)
	}
}

// version is set by the release build.
var version = "dev"

func (c *cli) cmdVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: c.do(func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.out, terminal.Version("fetch", version))
			return err
		}),
	}
}

// request is what the flags ask for, and the words if there are any.
func (c *cli) request(cmd *cobra.Command, args []string) (fetchworker.Request, error) {
	params, err := fetchworker.ParamsFrom(args[wordsNeeded:])
	if err != nil {
		return fetchworker.Request{}, fmt.Errorf("%w: %w", errUsage, err)
	}
	r := fetchworker.Request{
		Provider: args[0], Operation: args[1], Lane: fetchworker.Lane(c.lane), ID: c.id,
		Params: params, TTL: fetchworker.Duration(c.ttl), Use: c.use,
	}
	if cmd.Flags().Changed("max-age") {
		r.MaxAge = new(fetchworker.Duration(c.maxAge))
	}
	if cmd.Flags().Changed("max-stale") {
		r.MaxStale = new(fetchworker.Duration(c.maxStale))
	}
	if c.ttl < 0 || c.maxAge < 0 || c.maxStale < 0 || c.timeout <= 0 || c.parallel < 1 {
		return r, fmt.Errorf("%w: a duration cannot be negative, and the timeout and --parallel must be more than nothing", errUsage)
	}
	if c.ttl == 0 && cmd.Flags().Changed("ttl") {
		return r, fmt.Errorf("%w: --ttl must be more than nothing; without it the request is never given up", errUsage)
	}
	if c.from == "" && (c.to != "" || cmd.Flags().Changed("parallel")) {
		return r, fmt.Errorf("%w: --out and --parallel belong to --from", errUsage)
	}
	return r, nil
}
