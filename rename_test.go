package fetchworker_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestAForkHasItsOwnPath renames the module of a copy: every package is found
// under the new path and none under the old, and no word that is no path has
// changed, for the service is called what it was.
func TestAForkHasItsOwnPath(t *testing.T) {
	for _, needed := range []string{"git", "make", "sed", "xargs"} {
		if _, err := exec.LookPath(needed); err != nil {
			t.Skipf("%s is not here", needed)
		}
	}
	listed, err := exec.CommandContext(t.Context(), "git", "ls-files", "-z").Output()
	if err != nil {
		t.Skipf("not a clone: %v", err)
	}
	fork := t.TempDir()
	var copied []string // Go files
	for path := range strings.SplitSeq(strings.TrimSuffix(string(listed), "\x00"), "\x00") {
		if ext := filepath.Ext(path); ext != ".go" && ext != ".mod" && ext != ".sum" && ext != ".yml" && path != "Makefile" {
			continue
		}
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(fork, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fork, path), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(path) == ".go" {
			copied = append(copied, path)
		}
	}
	run := func(name string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = fork
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	run("git", "init", "-q")
	run("git", "add", ".")
	const its = "example.org/you/fetch-worker"
	run("make", "rename", "MODULE="+its, "THEN=true")
	if got := strings.TrimSpace(run("go", "list", "-m")); got != its {
		t.Errorf("the module is %s", got)
	}

	ours, forks := literals(t, ".", copied), literals(t, fork, copied)
	if len(ours.imports) < 100 || len(ours.words) < 1000 {
		t.Fatalf("%d imports and %d words were looked at", len(ours.imports), len(ours.words))
	}
	for path := range forks.imports {
		if path == module || strings.HasPrefix(path, module+"/") {
			t.Errorf("%s is imported still", path)
		}
	}
	for path := range ours.imports {
		if rest, is := strings.CutPrefix(path, module); is && (rest == "" || rest[0] == '/') && !forks.imports[its+rest] {
			t.Errorf("%s is imported by nobody", its+rest)
		}
	}
	for word := range ours.words {
		if !forks.words[word] && !strings.HasPrefix(word, module+"/") {
			t.Errorf("%q has become something else", word)
		}
	}
	for _, mod := range []string{"go.mod", "bench/go.mod", "deploy/test/go.mod"} {
		text, err := os.ReadFile(filepath.Join(fork, mod))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for word := range strings.FieldsSeq(line) {
				if word == module || strings.HasPrefix(word, module+"/") {
					t.Errorf("%s: %s", mod, line)
				}
			}
		}
	}
}

type found struct{ imports, words map[string]bool }

// literals are what Go files of a folder import, and their other texts.
func literals(t *testing.T, folder string, paths []string) found {
	t.Helper()
	f := found{map[string]bool{}, map[string]bool{}}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(folder, path), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			text, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			f.imports[text] = true
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) { //nolint:exhaustive // only where a text stands
			case *ast.ImportSpec:
				return false
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					f.words[text] = true
				}
			default:
			}
			return true
		})
	}
	return f
}
