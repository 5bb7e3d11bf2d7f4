package fetchworker_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestDependenciesAreListed: every module that the code or its tests import
// has its line in the record of that decision, and none is there for nothing.
func TestDependenciesAreListed(t *testing.T) {
	text, err := os.ReadFile("docs/adr/0003-dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, found := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		used[found[1]] = false
	}
	const format = `{{range .Imports}}{{.}} {{end}}{{range .TestImports}}{{.}} {{end}}{{range .XTestImports}}{{.}} {{end}}`
	out, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-f", format, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		host, _, _ := strings.Cut(path, "/")
		if !strings.Contains(host, ".") || path == module || strings.HasPrefix(path, module+"/") {
			continue // ours, or the standard library
		}
		listed := false
		for module := range used {
			if path == module || strings.HasPrefix(path, module+"/") {
				used[module], listed = true, true
			}
		}
		if !listed {
			t.Errorf("%s is imported, and has no line in docs/adr/0003-dependencies.md", path)
		}
	}
	for module, is := range used {
		if !is {
			t.Errorf("%s has a line in docs/adr/0003-dependencies.md, and nothing imports it", module)
		}
	}
}
