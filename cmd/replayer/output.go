package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// The forms of the output.
const (
	outTable  = "table"
	outNDJSON = "ndjson" // as --json
	outJSON   = "json"   // the same objects in one array
)

// form sets how the output is written, before a command runs.
func (c *cli) form(*cobra.Command, []string) error {
	switch c.output {
	case "", outTable:
	case outNDJSON:
		c.json = true
	case outJSON:
		c.json, c.array = true, &array{out: c.out}
		c.out = c.array
	default:
		return misused("give json, ndjson or table", "--output %q is not known", c.output)
	}
	return nil
}

// array makes one JSON array of the lines that are written to it.
type array struct {
	out  io.Writer
	line []byte
	some bool
}

func (a *array) Write(p []byte) (int, error) {
	a.line = append(a.line, p...)
	for {
		i := bytes.IndexByte(a.line, '\n')
		if i < 0 {
			return len(p), nil
		}
		begin := ",\n"
		if !a.some {
			begin, a.some = "[", true
		}
		if _, err := fmt.Fprintf(a.out, "%s%s", begin, a.line[:i]); err != nil {
			return 0, err
		}
		a.line = a.line[i+1:]
	}
}

// end closes the array; of nothing it is an empty one.
func (a *array) end() error {
	text := "]\n"
	if !a.some {
		text = "[]\n"
	}
	_, err := io.WriteString(a.out, text)
	return err
}

func (c *cli) cmdMan() *cobra.Command {
	return &cobra.Command{
		Use:     "man [FOLDER]",
		Short:   "Write the manual pages",
		Long:    `Write a manual page of each command into a folder, by default the present one.`,
		Example: `  replayer man /usr/local/share/man/man1`,
		Args:    cobra.MaximumNArgs(1),
		RunE: c.do(func(cmd *cobra.Command, args []string) error {
			folder := "."
			if len(args) == 1 {
				folder = args[0]
			}
			if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // for everybody to read
				return failed("name a folder that can be written", "manual pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "fetchworker", Manual: "fetchworker"}, folder)
			if err != nil {
				return failed("name a folder that can be written", "manual pages: %w", err)
			}
			return nil
		}),
	}
}

// completions has every --provider completed with the fleet's names.
func (c *cli) completions(cmd *cobra.Command) {
	if cmd.Flags().Lookup("provider") != nil {
		_ = cmd.RegisterFlagCompletionFunc("provider", c.completeProviders) // fails for an unknown flag only
	}
	for _, child := range cmd.Commands() {
		c.completions(child)
	}
}
