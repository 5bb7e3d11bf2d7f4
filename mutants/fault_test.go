package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A fault whose place the code has moved away from proves nothing any more: it
// moves along, or goes with its code. Neither does a test that is not there.
func TestEveryFaultHasItsPlace(t *testing.T) {
	t.Chdir("..")
	names := map[string]bool{}
	for _, dir := range []string{"mutants", "mutants/open"} {
		faults, err := readAll(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range faults {
			if _, err := f.apply(); err != nil {
				t.Error(err)
			}
			if names[f.name] {
				t.Errorf("%s stands twice", f.name)
			}
			names[f.name] = true
			for _, x := range f.tests {
				there := testsOf(t, x.pkg)
				for _, part := range strings.Split(x.run, "|") {
					if !slices.ContainsFunc(there, regexp.MustCompile(strings.SplitN(part, "/", 2)[0]).MatchString) {
						t.Errorf("%s: no test of %s is called %s", f.name, x.pkg, part)
					}
				}
			}
		}
	}
}

// testsOf are the names of a package's tests.
func testsOf(t *testing.T, pkg string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)`).FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	return names
}
