// Command worker fetches what agents ask for on NATS JetStream, inside every
// provider's limits, and gives every request one final answer.
//
// With NATS_URL it joins a server; without, it embeds one and runs the
// replayer's loop as well. "worker demo" shows all of it with no key and no
// network. docs/operations.md and README.md list the environment.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // to silence it
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
)

func main() {
	// net/http tells the standard logger what a provider sends out of turn, and
	// that may be our key.
	log.SetOutput(io.Discard)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// The first signal drains; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// memoryLimit is where the garbage collector begins to work harder, which it
// would do at twice the memory in use: many large answers at once are then
// held with little beside them. Below it nothing changes.
const memoryLimit = 768 << 20

// version is set by the release build.
var version = "dev"

var errUsage = errors.New("usage")

const usageText = `worker fetches for agents, inside every provider's limits.

  worker [--accept-loss]        serve until SIGTERM; configured by the environment (README.md);
                                --accept-loss: go on with a data folder that was damaged
  worker demo                   the whole story on recorded responses: no key, no network, ends by itself
  worker apply [--accept-loss]  create or update the streams of NATS_URL with the credentials given, and exit
  worker health                 ask the worker on FETCH_HTTP_ADDR whether it is ready
  worker check [--catalog FILE] validate the configuration and print what is in force, keys redacted
  worker check [--catalog FILE] --try PROVIDER OPERATION [name=value ...]
                                make one real call and show what came, what it was taken for, and why
  worker check --schema         print the JSON Schema of a catalogue, for editors
  worker record PROVIDER OPERATION [name=value ...]
                                make one call with your key and print the exchange, redacted, as a test file
  worker version

Try: worker demo
`

// run is the whole program; tests call it as main does.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	command := "serve"
	acceptLoss := len(args) > 0 && args[0] == "--accept-loss"
	if len(args) > 0 && !acceptLoss {
		command, args = args[0], args[1:]
	}
	if slices.Contains(args, "-h") || slices.Contains(args, "--help") {
		command = "help"
	}
	switch command {
	case "serve":
		if len(args) > 1 || len(args) == 1 && args[0] != "--accept-loss" {
			return fmt.Errorf("%w: serve takes no arguments but --accept-loss; it is configured by the environment", errUsage)
		}
		return serve(ctx, getenv, stderr, &hooks{acceptLoss: len(args) == 1})
	case "demo":
		return demo(ctx, args, stdout)
	case "apply":
		return apply(ctx, args, getenv, stdout, stderr)
	case "health":
		return health(ctx, args, getenv, stdout)
	case "check":
		return check(ctx, args, getenv, stdout)
	case "record":
		return recordExchange(ctx, args, getenv, stdout)
	case "version", "--version":
		_, err := fmt.Fprintln(stdout, "fetchworker", version)
		return err
	case "help", "-h", "--help":
		_, err := io.WriteString(stdout, usageText)
		return err
	default:
		return fmt.Errorf("%w: there is no command %q\n\n%s", errUsage, command, usageText)
	}
}
