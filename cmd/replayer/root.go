package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"fetchworker"
	"fetchworker/internal/app"
	"fetchworker/internal/broker"
	"fetchworker/internal/dial"
	"fetchworker/internal/operate"
	"fetchworker/internal/terminal"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// cli is one run of the program.
type cli struct {
	getenv func(string) string
	in     io.Reader
	out    io.Writer
	errs   io.Writer

	server, creds, context, inbox string
	json, noColor, bold           bool // bold: --yes of a limit
	output                        string
	array                         *array // of -o json

	started bool                   // a command runs: its errors are no longer about usage
	refused atomic.Pointer[string] // the permission that the server refused
}

// version is set by the release build.
var version = "dev"

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "replayer",
		Short: "Dead letters, review and control of fetchworker",
		Long: `replayer sends dead letters back to work and lets a person look after them.

Nothing is changed before it is recorded in the audit. Whatever is interrupted
or killed can be run again: nothing is done twice, nothing is lost.

Exit codes: 0 done, 1 failed, 2 usage, 3 nothing matched.`,
		Example: `  replayer status
  replayer list --provider fmp --since 2h
  replayer replay --provider fmp --dry-run
  replayer review requeue alice/q-17 --reason "symbol list fixed"`,
		Version:       terminal.Version("replayer", version),
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&c.server, "server", "", "NATS server `URL` (default $NATS_URL, or nats://127.0.0.1:4222)")
	f.StringVar(&c.creds, "creds", "", "NATS credentials `file` (default $NATS_CREDS)")
	f.StringVar(&c.context, "context", "", "natscli context `name` (default $NATS_CONTEXT)")
	f.StringVar(&c.inbox, "inbox-prefix", "", "inbox `prefix` that the user's permissions allow (default _INBOX_<user>)")
	f.BoolVar(&c.json, "json", false, "one JSON object a line; docs/replayer.md lists the fields")
	f.StringVarP(&c.output, "output", "o", "", "`form`: table, ndjson (as --json) or json, one array")
	f.BoolVar(&c.noColor, "no-color", false, "no colours on a terminal (or set NO_COLOR)")
	root.AddCommand(c.cmdRun(), c.cmdStatus(), c.cmdList(), c.cmdShow(), c.cmdReplay(), c.cmdCancel(),
		c.cmdPause(), c.cmdResume(), c.cmdLimit(), c.cmdRetire(), c.cmdReview(), c.cmdAudit(), c.cmdUsage(), c.cmdDoctor(), c.cmdEvents(), c.cmdPage(), c.cmdMan(), c.cmdVersion())
	terminal.StrictHelp(root)
	root.PersistentPreRunE = c.form
	completeWords(root, "output", []string{outTable, outNDJSON, outJSON})
	c.completions(root)
	return root
}

func (c *cli) cmdVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: c.do(func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.out, terminal.Version("replayer", version))
			return err
		}),
	}
}

// do wraps a command: from here on its errors are not about usage.
func (c *cli) do(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c.started = true
		return run(cmd, args)
	}
}

// link is a desk, and who sits there.
type link struct {
	*operate.Desk
	user string // as the server knows it
}

// connectWait is how long a person is kept waiting for a server.
const connectWait = 3 * time.Second

// connect joins the server as a person does: soon or not at all. The context
// it returns ends when the server refuses a permission, since what was asked
// would only time out.
func (c *cli) connect(ctx context.Context) (context.Context, *link, func(), error) {
	address, err := c.address("operator")
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	waiting, done := context.WithTimeout(ctx, connectWait)
	defer done()
	nc, err := broker.Connect(waiting, address, zap.NewNop(), c.onError(cancel))
	if err != nil {
		cancel(nil)
		return nil, nil, nil, connectError(address, err)
	}
	closeAll := func() { nc.Close(); cancel(nil) }
	desk, err := operate.Open(ctx, nc)
	if err != nil {
		closeAll()
		return nil, nil, nil, fmt.Errorf("open the shared state: %w", err)
	}
	return ctx, &link{desk, userOf(nc)}, closeAll, nil
}

func connectError(a dial.Address, err error) error {
	if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, broker.ErrServerTooOld) || errors.Is(err, dial.ErrAddress) {
		return err
	}
	return fmt.Errorf("%w to %s: %w", errConnect, a, err)
}

// parseServers reads a list of URLs as NATS_URL has it. Its error does not
// repeat them, for they may hold a password.
func parseServers(list string) ([]*url.URL, error) {
	var servers []*url.URL
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		u, err := url.Parse(text)
		if err != nil {
			return nil, misused("write it as nats://user:password@host:4222, with special characters of the password percent-encoded", "the NATS URL cannot be read")
		}
		servers = append(servers, u)
	}
	return servers, nil
}

// address is the server that flags, environment or default name. A user whose
// permissions are limited may only have replies under its own prefix.
func (c *cli) address(role string) (dial.Address, error) {
	config, err := app.Load(c.getenv)
	if err != nil {
		return dial.Address{}, err
	}
	a := config.NATS
	if c.server != "" || c.context != "" {
		a.URL, a.Context = c.server, c.context
	}
	if c.creds != "" {
		a.Creds = c.creds
	}
	if !a.Remote() {
		a.URL = "nats://" + config.NATSAddr
	}
	a.Name, a.Inbox = "fetchworker "+role, c.inbox
	servers, err := parseServers(a.URL)
	if err != nil {
		return dial.Address{}, err
	}
	if a.Inbox == "" && len(servers) > 0 { // a context has a prefix of its own
		a.Inbox = "_INBOX_" + role
		if user := servers[0].User.Username(); fetchworker.ValidID(user) {
			a.Inbox = "_INBOX_" + user
		}
	}
	return a, nil
}

func (c *cli) onError(stop func(error)) func(error) {
	return func(err error) {
		if errors.Is(err, nats.ErrPermissionViolation) {
			text := err.Error()
			c.refused.CompareAndSwap(nil, &text)
			stop(err)
		}
	}
}

// userOf is who the server takes us for; empty without auth.
func userOf(nc *nats.Conn) string {
	if u, err := url.Parse(nc.ConnectedUrl()); err == nil && u.User.Username() != "" {
		return u.User.Username()
	}
	if nc.Opts.UserJWT != nil { // a credentials file
		if token, err := nc.Opts.UserJWT(); err == nil {
			if claims, err := jwt.DecodeUserClaims(token); err == nil {
				return cmp.Or(claims.Name, claims.Subject)
			}
		}
	}
	return cmp.Or(nc.Opts.User, nc.Opts.Nkey)
}

// sayf tells the person something that is not the command's output.
func (c *cli) sayf(format string, args ...any) {
	_ = terminal.Printf(c.errs, format+"\n", args...) // nobody is left to tell if stderr is gone
}

// printf writes the command's output.
func (c *cli) printf(format string, args ...any) error {
	return terminal.Printf(c.out, format, args...)
}

// object writes one JSON object on a line of its own.
func (c *cli) object(v any) error { return encode(c.out, v) }

func encode(w io.Writer, v any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := w.Write(terminal.JSON(text.Bytes())); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// person reports whether somebody can be asked: both ways are a terminal.
func (c *cli) person() bool { return terminal.Is(c.in) && terminal.Is(c.errs) }
