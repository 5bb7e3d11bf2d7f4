package providers_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"fetchworker/internal/providers"
)

// The manual of the catalogue names every field there is, and what it shows
// can be loaded.
func TestCatalogueManual(t *testing.T) {
	content, err := os.ReadFile("../../docs/catalogue.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(content)

	expected := regexp.MustCompile(`unknown field "nonsense", expected one of (.*)`)
	for _, catalogue := range []string{
		"providers: {fmp: {nonsense: 1}}",
		"providers: {fmp: {operations: {quote: {nonsense: 1}}}}",
		"providers: {fmp: {operations: {quote: {params: {symbol: {nonsense: 1}}}}}}",
		"providers: {fmp: {operations: {quote: {paging: {nonsense: 1}}}}}",
		"providers: {fmp: {errors: [{nonsense: 1}]}}",
		"providers: {fmp: {tiers: {x: {nonsense: 1}}}}",
		"providers: {fmp: {get_paths: [{nonsense: 1}]}}",
		"providers: {fmp: {auth: {nonsense: 1}}}",
	} {
		_, err := providers.Load(env(map[string]string{"FETCH_CATALOG": write(t, catalogue)}))
		if err == nil {
			t.Fatalf("%s was accepted", catalogue)
		}
		found := expected.FindStringSubmatch(err.Error())
		if found == nil {
			t.Fatalf("%s: %v", catalogue, err)
		}
		for _, field := range strings.Split(found[1], ", ") {
			if !regexp.MustCompile("`[^`\n]*\\b" + field + "\\b[^`\n]*`").MatchString(manual) {
				t.Errorf("docs/catalogue.md does not name %s (%s)", field, catalogue)
			}
		}
	}

	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(manual, -1) {
		variable, text := "FETCH_CATALOG", block[1]
		switch {
		case strings.HasPrefix(text, "agents:"):
			variable = "FETCH_RIGHTS"
		case strings.HasPrefix(text, "errors:"), strings.HasPrefix(text, "own:"):
			text = "providers:\n  fmp:\n    " + strings.ReplaceAll(text, "\n", "\n    ")
		}
		load(t, map[string]string{variable: write(t, text)})
	}
}
