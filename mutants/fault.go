package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fault is a change of one file that some test must notice.
type fault struct {
	name   string
	file   string
	old    string // stands exactly once in the file
	new    string
	why    string // what a user would see
	tests  []tests
	unseen string // why no user could see it: it is not run
}

// tests are some tests of one package.
type tests struct{ pkg, run string }

// apply is the file's text with the fault in it.
func (f fault) apply() (string, error) {
	text, err := os.ReadFile(f.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), f.old); n != 1 {
		return "", fmt.Errorf("%s: the text stands %d times in %s", f.name, n, f.file)
	}
	return strings.Replace(string(text), f.old, f.new, 1), nil
}

// slicesOf are the faults of these names, or in files whose name contains one
// of the words; all where there is none.
func slicesOf(faults []fault, words string) []fault {
	if words == "" {
		return faults
	}
	return slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
		return !slices.ContainsFunc(strings.Split(words, ","), func(word string) bool {
			return f.name == word || strings.Contains(f.file, word)
		})
	})
}

// touching are the faults in these files, and those whose tests lie beside a
// test of these.
func touching(faults []fault, files []string) []fault {
	return slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
		return !slices.ContainsFunc(files, func(file string) bool {
			if file == f.file {
				return true
			}
			return strings.HasSuffix(file, "_test.go") && slices.ContainsFunc(f.tests, func(t tests) bool { return filepath.Dir(file) == t.pkg })
		})
	})
}

// readAll reads the faults of a folder.
func readAll(dir string) ([]fault, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no faults in %s: run this in the root of the tree", dir)
	}
	var all []fault
	names := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // of this folder
		if err != nil {
			return nil, err
		}
		faults, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, f := range faults {
			if names[f.name] {
				return nil, fmt.Errorf("%s: %s is there twice", file, f.name)
			}
			names[f.name] = true
		}
		all = append(all, faults...)
	}
	return all, nil
}

// parse reads faults as they are written down:
//
//	fault: a name
//	file: internal/record/record.go
//	why: what a user would see
//	tests: internal/record TestOne|TestOther
//	- the text as it stands
//	+ the text with the fault
//
// Lines of - and + are joined as they are; file, why and tests hold until
// others are named, tests may be named more than once. Instead of tests,
// "unseen:" says why no user could see the fault.
func parse(text string) ([]fault, error) {
	var all []fault
	var f fault
	var old, made []string
	end := func() error {
		if old == nil && f.name == "" {
			return nil
		}
		f.old, f.new = strings.Join(old, "\n"), strings.Join(made, "\n")
		if f.file == "" || f.why == "" || f.old == "" || f.old == f.new || len(f.tests) == 0 && f.unseen == "" {
			return fmt.Errorf("fault %s: file, why, text and tests are needed", f.name)
		}
		all = append(all, f)
		f, old, made = fault{file: f.file, tests: f.tests}, nil, nil
		return nil
	}
	inherited := true // the tests are those of the fault before
	for i, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		if old != nil && (key == "fault" || key == "file" || key == "tests") {
			if err := end(); err != nil {
				return nil, err
			}
			inherited = true
		}
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "-"):
			old = append(old, strings.TrimPrefix(line[1:], " "))
		case strings.HasPrefix(line, "+"):
			made = append(made, strings.TrimPrefix(line[1:], " "))
		case key == "fault":
			f.name = value
		case key == "file":
			f.file = value
		case key == "why":
			f.why = value
		case key == "unseen":
			f.unseen = value
		case key == "tests":
			pkg, run, ok := strings.Cut(value, " ")
			if !ok {
				return nil, fmt.Errorf("line %d: tests are a package and their names", i+1)
			}
			if inherited {
				f.tests, inherited = nil, false
			}
			f.tests = append(slices.Clone(f.tests), tests{pkg, run})
		default:
			return nil, fmt.Errorf("line %d: %q is not understood", i+1, line)
		}
	}
	return all, end()
}
