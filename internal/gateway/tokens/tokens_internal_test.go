package tokens

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// A file that changes is read anew, also where neither its size nor its time
// says so because it was looked at just then.
func TestAFileIsReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	alice, line, err := New("alice")
	if err != nil {
		t.Fatal(err)
	}
	carol, other, err := New("carol")
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	write(line, now)
	f, err := Load(path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	known := func(token, want string) {
		t.Helper()
		if name, ok := f.Agent(token); name != want || ok != (want != "") {
			t.Errorf("%q, %t, want %q", name, ok, want)
		}
	}
	known(alice, "alice")
	write(other, now) // as large, and as old as a clock can tell
	known(alice, "")
	known(carol, "carol")
	write(other, now.Add(-time.Hour))
	known(carol, "carol")
	write(line, now.Add(-2*time.Hour))
	known(alice, "alice")
	write("{", now.Add(-3*time.Hour)) // those of before stay
	known(alice, "alice")
	write(line+"\n"+other, now.Add(-4*time.Hour))
	known(alice, "alice")
	known(carol, "carol")
	write(line+"\n---\n", now.Add(-5*time.Hour)) // whoever stands behind --- would be nobody
	known(carol, "carol")
	write(line+"\n---\n"+other, now.Add(-6*time.Hour))
	known(carol, "carol")
	write("---\n"+line, now.Add(-7*time.Hour))
	known(alice, "alice")
	known(carol, "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	known(alice, "")
	write(line, now.Add(-4*time.Hour))
	known(alice, "alice")
}

// What a file may hold: a token names one agent, and a line that is none of a
// token's and an agent's is no reason to let in somebody else, nor is it quoted.
func TestWhatAFileMayHold(t *testing.T) {
	secret, line, err := New("alice")
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.TrimSuffix(line, ": alice")
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"one":                   {line, true},
		"none":                  {"", true},
		"only a comment":        {"# nobody yet", true},
		"two of one agent":      {line + "\n" + strings.Repeat("0", 64) + ": alice", true},
		"one for two agents":    {line + "\n" + hash + ": bob", false},
		"one twice":             {line + "\n" + line, false},
		"the same in capitals":  {line + "\n" + strings.ToUpper(hash) + ": bob", false},
		"the token itself":      {secret + ": alice", false},
		"half of a hash":        {hash[:62] + ": alice", false},
		"more than a hash":      {hash + "00: alice", false},
		"no name of an agent's": {hash + ": Alice!", false},
		"no agent":              {hash + ":", false},
		"a list of agents":      {hash + ": [alice]", false},
		"a list":                {"- " + line, false},
		"a text":                {secret, false},
	} {
		path := filepath.Join(t.TempDir(), "tokens.yaml")
		if err := os.WriteFile(path, []byte(c.text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		agents, err := readTokens(path)
		if (err == nil) != c.ok || err != nil && (agents != nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), hash)) {
			t.Errorf("%s: %v, %v", name, agents, err)
		}
	}
}
