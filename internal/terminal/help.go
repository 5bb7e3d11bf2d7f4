package terminal

import (
	"fmt"

	"github.com/spf13/cobra"
)

// StrictHelp makes help of a command that there is not the same mistake as the
// command itself would be. All other commands are added before.
func StrictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, help := range root.Commands() {
		if help.Name() != "help" {
			continue
		}
		help.Args = func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil {
				return err //nolint:wrapcheck // as cobra says it
			}
			if len(rest) > 0 {
				return fmt.Errorf("unknown command %q for %q", rest[0], found.CommandPath())
			}
			return nil
		}
	}
}
