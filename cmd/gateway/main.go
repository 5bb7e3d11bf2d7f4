// Command gateway is the front door for agents that do not speak NATS: HTTP,
// server-sent events, and tools for language models. It joins the server of a
// fleet and holds nothing: any number may run behind one name.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // to silence it
	"os"
	"os/signal"
	"syscall"
	"time"

	"fetchworker/internal/gateway/tokens"
	"fetchworker/internal/terminal"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
)

func main() {
	// net/http tells the standard logger what a client sends out of turn.
	log.SetOutput(io.Discard)
	time.Local = time.UTC // what is stored, logged or shown says so, wherever the machine stands
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// The first signal ends what waits; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// version is set by the release build.
var version = "dev"

var errUsage = errors.New("usage")

// run is the whole program; tests call it as main does.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	started := false // the arguments and flags were right
	root := root(getenv, stdout, stderr, &started)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !started { // arguments and flags are cobra's to judge
		return fmt.Errorf("%w: %w (gateway --help tells more)", errUsage, err)
	}
	return err
}

func root(getenv func(string) string, stdout, stderr io.Writer, started *bool) *cobra.Command {
	do := func(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd.Context(), args)
		}
	}
	serves := do(func(ctx context.Context, _ []string) error { return serve(ctx, getenv, stderr, nil) })
	root := &cobra.Command{
		Use: "gateway", Short: "HTTP and MCP for agents that do not speak NATS",
		Long: `gateway serves HTTP and MCP for agents that do not speak NATS, on
FETCH_GATEWAY_ADDR (127.0.0.1:8081), until SIGTERM. It joins the server of
NATS_URL or NATS_CONTEXT (default ` + nats.DefaultURL + `). docs/gateway.md
lists the paths and the environment.

Exit codes: 0 done, 1 failed, 2 usage.`,
		Example: `  gateway token alice >> tokens.yaml
  FETCH_GATEWAY_TOKENS=tokens.yaml FETCH_GATEWAY_ADDR=:8081 gateway`,
		Version: terminal.Version("gateway", version), Args: cobra.NoArgs, RunE: serves,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(
		&cobra.Command{Use: "serve", Short: "Serve until SIGTERM, as without a command", Args: cobra.NoArgs, RunE: serves},
		&cobra.Command{
			Use: "token AGENT", Short: "Make a token for an agent", Args: cobra.ExactArgs(1),
			Long: `token makes a bearer token for an agent. The token itself goes to standard error,
once; its line for the file of FETCH_GATEWAY_TOKENS, which holds only its
SHA-256, to standard output. A running gateway takes it in by itself.`,
			Example: `  gateway token alice >> tokens.yaml`,
			RunE:    do(func(_ context.Context, args []string) error { return token(args[0], stdout, stderr) }),
		},
		&cobra.Command{
			Use: "health", Short: "Ask the gateway on FETCH_HTTP_ADDR whether it is ready", Args: cobra.NoArgs,
			RunE: do(func(ctx context.Context, _ []string) error { return health(ctx, getenv, stdout) }),
		},
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: do(func(context.Context, []string) error {
				_, err := fmt.Fprintln(stdout, terminal.Version("gateway", version))
				return err
			}),
		},
	)
	terminal.StrictHelp(root)
	return root
}

// token makes a token. It is shown once; only its hash is for the file.
func token(agent string, stdout, stderr io.Writer) error {
	secret, line, err := tokens.New(agent)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if _, err := fmt.Fprintln(stderr, secret); err != nil {
		return fmt.Errorf("write the token: %w", err)
	}
	if _, err := fmt.Fprintln(stdout, line); err != nil {
		return fmt.Errorf("write the line: %w", err)
	}
	return nil
}
