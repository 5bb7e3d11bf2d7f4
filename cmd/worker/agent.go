package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"fetchworker"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"
)

func (c *cli) cmdAgent() *cobra.Command {
	accounts := ""
	cmd := &cobra.Command{
		Use:   "agent NAME",
		Short: "Give an agent an account in the server's configuration",
		Long: `Give an agent an account of its own in nats/accounts.conf, like those that are
there, and print its password, which is stored nowhere: the file has a bcrypt hash
of it. The server takes it up when it reads its configuration again, and nobody is
disconnected.`,
		Example: `  worker agent carol && nats-server --signal reload
  worker agent carol && docker compose kill -s HUP nats`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(_ context.Context, args []string) error { return addAgent(args[0], accounts, passwordCost, c.out) }),
	}
	cmd.Flags().StringVar(&accounts, "accounts", filepath.Join("nats", "accounts.conf"), "the `file` that server.conf includes")
	return cmd
}

// modelAgent is the account that others are made like.
const modelAgent = "alice"

// addAgent writes an account for an agent beside the one that it is made like.
func addAgent(name, file string, cost int, out io.Writer) error {
	if !fetchworker.ValidToken(name) {
		return fmt.Errorf("%w: %q is no agent's name: 1 to 32 of a-z 0-9 _ -", errUsage, name)
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator's own
	if err != nil {
		return fmt.Errorf("read the accounts: %w", err)
	}
	account := func(name string) *regexp.Regexp {
		return regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(name) + ` \{\n(?:(?:    .*)?\n)*  \}\n`)
	}
	if regexp.MustCompile(`(?m)^\s*"?`+regexp.QuoteMeta(name)+`"?\s*[:=]?\s*\{`).Match(text) || regexp.MustCompile(`user:\s*"?`+regexp.QuoteMeta(name)+`"?\s*[,}\n]`).Match(text) {
		return fmt.Errorf("%s has an account or a user called %s already", file, name)
	}
	at := account(modelAgent).FindIndex(text)
	if at == nil {
		return fmt.Errorf("%s has no account %s that this one could be made like", file, modelAgent)
	}
	password := rand.Text()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return fmt.Errorf("hash the password: %w", err)
	}
	block := string(text[at[0]:at[1]])
	block = regexp.MustCompile(`password: \S+`).ReplaceAllLiteralString(block, `password: "`+string(hash)+`"`)
	block = strings.ReplaceAll(block, modelAgent, name)
	written := bytes.Join([][]byte{text[:at[1]], []byte("\n" + block), text[at[1]:]}, nil)
	if err := replaceFile(file, written); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s has an account; its password, which is stored nowhere: %s\n"+
		"next: nats-server --signal reload (docker compose kill -s HUP nats), then NATS_URL=nats://%s:%s@HOST:4222 fetch …\n", name, password, name, password)
	return err
}

// passwordCost makes a guess take a tenth of a second, as nats server passwd does.
const passwordCost = 11

// replaceFile puts a file in the place of another, whole or not at all.
func replaceFile(file string, text []byte) error {
	mode := os.FileMode(0o600)
	if was, err := os.Stat(file); err == nil {
		mode = was.Mode().Perm()
	}
	next, err := os.CreateTemp(filepath.Dir(file), "."+strings.TrimPrefix(filepath.Base(file), ".")+"-*")
	if err != nil {
		return fmt.Errorf("write the accounts: %w", err)
	}
	defer func() { _ = os.Remove(next.Name()) }() // it is not there where all went well
	_, err = next.Write(text)
	for _, step := range []func() error{func() error { return err }, func() error { return next.Chmod(mode) }, next.Sync, next.Close, func() error { return os.Rename(next.Name(), file) }} {
		if err := step(); err != nil {
			_ = next.Close()
			return fmt.Errorf("write the accounts: %w", err)
		}
	}
	return nil
}
