package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fetchworker/internal/app"
	"fetchworker/internal/providers"
)

// TestREADMEListsEveryVariable: what the code reads is in the README's tables,
// and what is in the tables is read.
func TestREADMEListsEveryVariable(t *testing.T) {
	read := map[string]bool{}
	watch := func(name string) string {
		read[name] = true
		return ""
	}
	if _, err := app.Load(watch); err != nil {
		t.Fatal(err)
	}
	set, err := providers.Load(watch)
	if err != nil {
		t.Fatal(err)
	}
	set.Close()

	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	variable := regexp.MustCompile("`([A-Z][A-Z0-9_]+)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 || cells[0] != "" {
			continue
		}
		for _, found := range variable.FindAllStringSubmatch(cells[1], -1) {
			if listed[found[1]] {
				t.Errorf("%s is listed twice", found[1])
			}
			listed[found[1]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(read)) {
		if !listed[name] {
			t.Errorf("%s is read, and not in README.md", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if !read[name] {
			t.Errorf("%s is in README.md, and nothing reads it", name)
		}
	}
}

// TestREADMECommandsExist: what the README tells to run can be run.
func TestREADMECommandsExist(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	root := (&cli{getenv: env()}).root()
	for _, found := range regexp.MustCompile(`go run \./cmd/worker ([a-z]+)`).FindAllStringSubmatch(string(text), -1) {
		if cmd, _, err := root.Find(found[1:]); err != nil || cmd == root {
			t.Errorf("there is no command %q", found[1])
		}
	}
}

// TestREADMELinksLeadSomewhere: files and folders that are named exist.
func TestREADMELinksLeadSomewhere(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`\]\(([^):#]+)\)|(?m:^    ([a-z]+(?:/[a-z]+)?) {3,}\S)`).FindAllStringSubmatch(string(text), -1) {
		path := found[1] + found[2]
		if _, err := os.Stat("../../" + path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What the documents name is there, and every document is found from the list.
func TestTheDocumentsNameWhatIsThere(t *testing.T) {
	const root = "../../"
	path := regexp.MustCompile("`((?:cmd|internal|docs|deploy|nats|e2e|testdata|bench)/[A-Za-z0-9_/.-]+|[a-z_]+\\.go)`")
	within := regexp.MustCompile("(?:`(\\w+)` and )?`(\\w+)`,? (?:is )?in `([A-Za-z0-9_/.-]+\\.go)`")
	inside := 0
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/README.md", "docs/adr/0040-how-the-wire-changes.md"} {
		text, err := os.ReadFile(root + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range path.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(root + found[1]); err != nil && !besides(string(text), found[1]) {
				t.Errorf("%s names %s, which is not there", name, found[1])
			}
		}
		for _, found := range within.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\n", " "), -1) {
			code, err := os.ReadFile(root + found[3])
			if err != nil {
				t.Error(err)
			}
			for _, what := range found[1:3] {
				if what != "" && !regexp.MustCompile(`\b`+what+`\b`).Match(code) {
					t.Errorf("%s says that %s is in %s", name, what, found[3])
				}
			}
			inside++
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), link[1])); err != nil {
				t.Errorf("%s links %s, which is not there", name, link[1])
			}
		}
	}
	if some := 12; inside < some {
		t.Errorf("only %d things are said to be in a file", inside)
	}
	list, err := os.ReadFile(root + "docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob(root + "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range documents {
		if base := filepath.Base(document); base != "README.md" && !strings.Contains(string(list), "("+base+")") {
			t.Errorf("docs/README.md does not list %s", base)
		}
	}
	text, err := os.ReadFile(root + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Glob(root + "internal/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range packages {
		if name := "internal/" + filepath.Base(dir); !strings.Contains(string(text), "\n    "+name+" ") {
			t.Errorf("README.md does not say what %s is for", name)
		}
	}
}

// A link to a chapter leads to one.
func TestChaptersThatAreLinkedAreThere(t *testing.T) {
	const root = "../../"
	chapters := func(path string) map[string]bool {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return nil
		}
		names := map[string]bool{}
		for _, head := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
			name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(head[1]), "")
			names[strings.ReplaceAll(name, " ", "-")] = true
		}
		return names
	}
	documents, err := filepath.Glob(root + "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(root + "docs/adr/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, document := range append(append(documents, more...), root+"README.md", root+"CONTRIBUTING.md", root+"CHANGELOG.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#:\s]*)#([^)\s]+)\)`).FindAllStringSubmatch(string(text), -1) {
			path := document
			if link[1] != "" {
				path = filepath.Join(filepath.Dir(document), link[1])
			}
			if found++; !chapters(path)[link[2]] {
				t.Errorf("%s: %s has no chapter %s", document, path, link[2])
			}
		}
	}
	const some = 20
	if found < some {
		t.Errorf("only %d links are found", found)
	}
}

// besides reports whether a bare file name continues a list in one folder, as
// in "`sheet/spec.go` and `validate.go`".
func besides(text, name string) bool {
	for _, folder := range regexp.MustCompile("`((?:internal|cmd)/[a-z/]+/)").FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat("../../" + folder[1] + name); err == nil {
			return true
		}
	}
	return false
}
