package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/crypto/bcrypt"
)

// An agent is added with one command: its account is like the others', a server
// that runs takes it up, nobody is disconnected, and it may do what an agent may
// and nothing in another's name.
func TestAnAgentIsAddedWithOneCommand(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"accounts.conf", "server.conf"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "nats", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ALICE", "BOB", "WORKER", "REPLAYER", "OPERATOR", "SUBSCRIBER", "GATEWAY", "ADMIN"} {
		t.Setenv("NATS_"+name+"_PASSWORD", strings.ToLower(name))
	}
	options := func() *server.Options {
		o, err := server.ProcessConfigFile(filepath.Join(folder, "server.conf"))
		if err != nil {
			t.Fatal(err)
		}
		o.Port, o.HTTPPort, o.StoreDir, o.NoSigs, o.NoLog = server.RANDOM_PORT, 0, filepath.Join(folder, "data"), true, true
		o.AuthTimeout = 60 // a hash takes its time, under the race detector above all
		return o
	}
	s, err := server.NewServer(options())
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	connect := func(name, password string) (*nats.Conn, error) {
		return nats.Connect("nats://"+s.Addr().String(), nats.UserInfo(name, password), nats.Timeout(time.Minute), nats.CustomInboxPrefix("_INBOX_"+name), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	alice, err := connect("alice", "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()

	accounts := filepath.Join(folder, "accounts.conf")
	var out bytes.Buffer
	// As the command does it; a hash of its cost takes seconds under the race detector.
	if err := addAgent("carol-2", accounts, bcrypt.MinCost, &out); err != nil {
		t.Fatal(err)
	}
	password := regexp.MustCompile(`stored nowhere: (\S+)`).FindStringSubmatch(out.String())
	text, err := os.ReadFile(accounts)
	if err != nil || password == nil || strings.Contains(string(text), password[1]) {
		t.Fatalf("%v: %s", err, out.String())
	}
	if info, err := os.Stat(accounts); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	block := func(name string) string {
		return regexp.MustCompile(`password: \S+`).ReplaceAllString(strings.ReplaceAll(regexp.MustCompile(`(?m)^  `+name+` \{\n(?:    .*\n)*  \}\n`).FindString(string(text)), name, "X"), "")
	}
	if block("carol-2") != block("alice") || block("alice") == "" {
		t.Errorf("not like alice's:\n%s", block("carol-2"))
	}
	if err := s.ReloadOptions(options()); err != nil && !strings.Contains(err.Error(), "reload not supported") { // of what the test moved
		t.Fatal(err)
	}
	carol, err := connect("carol-2", password[1])
	if err != nil {
		t.Fatal(err)
	}
	defer carol.Close()
	if _, err := connect("carol-2", "guess"); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with another password: %v", err)
	}
	refused := make(chan error, 2)
	carol.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err })
	if err := errors.Join(carol.Publish("fetch.request.fmp.interactive.quote.carol-2", nil), carol.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(carol.Publish("fetch.request.fmp.interactive.quote.alice", nil), carol.Flush()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case err := <-refused:
		if !strings.Contains(err.Error(), "quote.alice") {
			t.Errorf("its own subject is refused: %v", err)
		}
	case <-ctx.Done():
		t.Error("it may ask in another's name")
	}
	if !alice.IsConnected() {
		t.Error("alice was disconnected")
	}
	if err := run(t.Context(), []string{"agent", "erin", "--accounts", accounts}, os.Getenv, &out, &out); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(accounts); err != nil || strings.Count(string(text), `password: "$2a$11$`) != 1 {
		t.Errorf("erin has no such hash: %v", err)
	}
	before := text
	for _, args := range [][]string{{"agent", "carol-2"}, {"agent", "bob"}, {"agent", "APP"}, {"agent", "worker"}, {"agent", "a b"}, {"agent", "Carol"}, {"agent", "app.x"}} {
		if err := run(t.Context(), append(args, "--accounts", accounts), os.Getenv, &out, &out); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	if err := run(t.Context(), []string{"agent", "dave", "--accounts", filepath.Join(folder, "none.conf")}, os.Getenv, &out, &out); err == nil {
		t.Error("there is no such file")
	}
	if text, err = os.ReadFile(accounts); err != nil || !bytes.Equal(text, before) {
		t.Errorf("something was written: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(folder, ".accounts*")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
