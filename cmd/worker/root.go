package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"fetchworker/internal/terminal"

	"github.com/spf13/cobra"
)

// cli is one run of the program.
type cli struct {
	getenv  func(string) string
	out     io.Writer
	errs    io.Writer
	started bool // the arguments and flags were right
}

// run is the whole program; tests call it as main does.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	c := &cli{getenv: getenv, out: stdout, errs: stderr}
	root := c.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !c.started { // arguments and flags are cobra's to judge
		return fmt.Errorf("%w: %w (worker --help tells more)", errUsage, err)
	}
	return err
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "worker",
		Short: "Fetch for agents, inside every provider's limits",
		Long: `worker fetches for agents, inside every provider's limits.

Without a command it serves until SIGTERM. With NATS_URL it joins a server;
without, it embeds one and runs the replayer's loop as well. The environment
configures it: README.md lists every variable, and worker check prints what is
in force.

Exit codes: 0 done, 1 failed, 2 usage.`,
		Example: `  worker demo
  worker check
  NATS_URL=nats://127.0.0.1:4222 worker`,
		Version:      terminal.Version("worker", version),
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	c.serves(root)
	root.AddCommand(c.cmdServe(), c.cmdDemo(), c.cmdApply(), c.cmdHealth(), c.cmdCheck(), c.cmdRecord(), c.cmdMove(), c.cmdAgent(), c.cmdVersion())
	terminal.StrictHelp(root)
	return root
}

// do runs a command whose arguments are right.
func (c *cli) do(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c.started = true
		return run(cmd.Context(), args)
	}
}

// serves makes a command serve, as the program does without one.
func (c *cli) serves(cmd *cobra.Command) {
	acceptLoss := cmd.Flags().Bool("accept-loss", false, "go on with a data folder that was damaged")
	cmd.RunE = c.do(func(ctx context.Context, _ []string) error {
		return serve(ctx, c.getenv, c.errs, &hooks{acceptLoss: *acceptLoss})
	})
}

func (c *cli) cmdServe() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Serve until SIGTERM, as without a command", Args: cobra.NoArgs}
	c.serves(cmd)
	return cmd
}

func (c *cli) cmdDemo() *cobra.Command {
	var page bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Show the whole story on recorded responses", Args: cobra.NoArgs,
		Long: `demo shows the service at work in scenes that each claim something and check it,
on recorded responses: no key, no network, and it ends by itself. With --page the
operators' page shows it too, on FETCH_PAGE_ADDR, and it goes on until Ctrl-C.`,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			addr := ""
			if page {
				addr = cmp.Or(c.getenv("FETCH_PAGE_ADDR"), "127.0.0.1:8090")
			}
			return demo(ctx, c.out, addr)
		}),
	}
	cmd.Flags().BoolVar(&page, "page", false, "show the operators' page, and go on until Ctrl-C")
	return cmd
}

func (c *cli) cmdApply() *cobra.Command {
	cmd := &cobra.Command{
		Use: "apply", Short: "Create or update the streams of NATS_URL, and exit", Args: cobra.NoArgs,
		Long: `apply brings the streams and buckets of NATS_URL or NATS_CONTEXT to the form that
this version needs, with the credentials given, and exits. What would lose
something it names and leaves, with exit code 1.`,
	}
	acceptLoss := cmd.Flags().Bool("accept-loss", false, "make streams smaller, younger or with fewer copies, as they are set")
	cmd.RunE = c.do(func(ctx context.Context, _ []string) error { return apply(ctx, *acceptLoss, c.getenv, c.out, c.errs) })
	return cmd
}

func (c *cli) cmdHealth() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Ask the worker on FETCH_HTTP_ADDR whether it is ready", Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error { return health(ctx, c.getenv, c.out) }),
	}
}

func (c *cli) cmdCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [PROVIDER OPERATION [name=value ...]]",
		Short: "Validate the configuration and print what is in force, keys redacted",
		Long: `check validates the configuration as a worker would read it, and prints what is
in force, keys redacted. Every mistake is named at once, in files with its line.

With --try it makes one real call and shows what came, what it was taken for,
and why. Where a server is named the call is one of the fleet's and waits for
its permit; without one it is outside of them.`,
		Example: `  worker check
  worker check --catalog providers.yaml
  worker check --catalog providers.yaml --try acme quote symbol=AAPL
  worker check --schema > catalogue.schema.json`,
	}
	o := checking{}
	cmd.Flags().StringVar(&o.catalog, "catalog", c.getenv("FETCH_CATALOG"), "catalogue `file` to check instead of FETCH_CATALOG")
	cmd.Flags().BoolVar(&o.schema, "schema", false, "print the JSON Schema of a catalogue, for editors")
	cmd.Flags().BoolVar(&o.try, "try", false, "make one real call: --try PROVIDER OPERATION [name=value ...]")
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case o.try && len(args) < wordsNeeded:
			return errWords
		case !o.try && len(args) > 0:
			return errors.New("check takes arguments with --try only")
		}
		return nil
	}
	cmd.RunE = c.do(func(ctx context.Context, args []string) error { return check(ctx, o, args, c.getenv, c.out) })
	return cmd
}

func (c *cli) cmdRecord() *cobra.Command {
	return &cobra.Command{
		Use:   "record PROVIDER OPERATION [name=value ...]",
		Short: "Make one call and print the exchange, redacted, as a test file",
		Long: `record makes one call with your key and prints the exchange, redacted, in the
form of the files in testdata. It asks nobody for a permit: it is for a person
who adds a test, not for a script.`,
		Example: `  worker record fmp quote symbol=AAPL > testdata/fmp/v3_quote.http`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < wordsNeeded {
				return errWords
			}
			return nil
		},
		RunE: c.do(func(ctx context.Context, args []string) error { return recordExchange(ctx, args, c.getenv, c.out) }),
	}
}

func (c *cli) cmdMove() *cobra.Command {
	cmd := &cobra.Command{ //nolint:gosec // its example has no password of anybody's
		Use: "move --to URL", Short: "Take all that is stored to another server", Args: cobra.NoArgs,
		Long: `move takes all that is stored to another server: answers, letters, review,
waiting requests, registers, circuits and orders, each message with its sequence
and time. What is moved is the data folder of an embedded server
(FETCH_DATA_DIR), or the streams of NATS_URL, with credentials that may take
snapshots. FETCH_REPLICAS says how many copies there are at the new place.

Stop workers, replayers and agents first. It may be interrupted at any point and
run again; until it has ended no worker starts at the new place, and from its
beginning on none at the old one.`,
		Example: `  worker move --to nats://admin:password@n1:4222 --to-inbox-prefix _INBOX_admin
  NATS_URL=nats://old:4222 FETCH_REPLICAS=3 worker move --to nats://n1:4222,nats://n2:4222`,
	}
	var where moveTo
	cmd.Flags().StringVar(&where.url, "to", "", "`URL` of the server that everything goes to")
	cmd.Flags().StringVar(&where.creds, "to-creds", "", "NATS credentials `file` for it")
	cmd.Flags().StringVar(&where.inbox, "to-inbox-prefix", "", "inbox `prefix` that the user's permissions there allow")
	cmd.RunE = c.do(func(ctx context.Context, _ []string) error { return move(ctx, where, c.getenv, c.out) })
	return cmd
}

// wordsNeeded are PROVIDER and OPERATION.
const wordsNeeded = 2

var errWords = errors.New("PROVIDER and OPERATION are needed")

func (c *cli) cmdVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: c.do(func(context.Context, []string) error {
			_, err := fmt.Fprintln(c.out, terminal.Version("worker", version))
			return err
		}),
	}
}
