package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"fetchworker"
	"fetchworker/internal/gateway/catalogue"
	"fetchworker/internal/gateway/tools"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"
)

func (c *cli) cmdMCP() *cobra.Command {
	return &cobra.Command{
		Use: "mcp", Short: "Serve tools for a language model on standard input and output", Args: cobra.NoArgs,
		Long: `mcp serves five tools of the model context protocol (MCP) on standard input and
output, for a client that starts it: search_operations, describe_operation,
fetch, read_answer, limits. docs/mcp.md has the configuration of some clients.
A gateway serves the same on /mcp.`,
		Example: `  fetch mcp --agent alice --server nats://127.0.0.1:4222`,
		RunE:    c.do(func(cmd *cobra.Command, _ []string) error { return c.mcp(cmd.Context(), cmd.InOrStdin()) }),
	}
}

func (c *cli) mcp(ctx context.Context, in io.Reader) error {
	l, err := c.connect()
	if err != nil {
		return err
	}
	defer l.close()
	server := tools.NewServer(version, catalogue.New(l.Client), func(*mcp.CallToolRequest) (*fetchworker.Client, func(), error) {
		return l.Client, func() {}, nil
	})
	err = server.Run(ctx, &mcp.IOTransport{Reader: io.NopCloser(in), Writer: unclosed{c.out}})
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("mcp: %w", err)
	}
	return nil
}

// unclosed is a writer that is not ours to close.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
