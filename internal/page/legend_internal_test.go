package page

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"fetchworker/internal/wire"
)

// The legend says what the glossary says, letter for letter; only what classes
// mean it says itself, and it knows each of them.
func TestTheLegendIsTheGlossarys(t *testing.T) {
	text, err := os.ReadFile("../../docs/glossary.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \|`).FindAllStringSubmatch(string(text), -1) {
		lines[line[1]] = line[2]
	}
	known := ""
	for _, part := range legend {
		for _, w := range part.Words {
			if known += ", " + w[0]; part.About == "Classes" {
				continue
			}
			if lines[w[0]] != w[1] {
				t.Errorf("%s: %q, the glossary has %q", w[0], w[1], lines[w[0]])
			}
		}
	}
	for _, class := range wire.LetterClasses() {
		if !strings.Contains(known+",", ", "+string(class)+",") {
			t.Errorf("the legend does not know the class %s", class)
		}
	}
	// What templates explain by a title, the legend has.
	entries, err := assets.ReadDir("assets")
	if err != nil {
		t.Fatal(err)
	}
	explained := 0
	for _, e := range entries {
		text, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, use := range regexp.MustCompile(`\{\{meant "([^"]+)"\}\}`).FindAllStringSubmatch(string(text), -1) {
			if explained++; meant(use[1]) == "" {
				t.Errorf("%s: %q is not in the legend", e.Name(), use[1])
			}
		}
	}
	if explained == 0 {
		t.Error("nothing is explained where it stands")
	}
}
