package main

import (
	"maps"
	"os"
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
	for _, found := range regexp.MustCompile(`go run \./cmd/worker ([a-z]+)`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(usage, "worker "+found[1]) {
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
