package providers_test

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/catalogue"
)

// The schema for editors knows every field that the reader knows.
func TestSchemaKnowsEveryField(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(catalogue.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	expected := regexp.MustCompile(`unknown field "nonsense", expected one of (.*)`)
	for text, path := range map[string]string{
		"providers: {fmp: {nonsense: 1}}":                                            "providers",
		"providers: {fmp: {operations: {quote: {nonsense: 1}}}}":                     "providers operations",
		"providers: {fmp: {operations: {quote: {params: {symbol: {nonsense: 1}}}}}}": "providers operations params",
		"providers: {fmp: {operations: {quote: {paging: {nonsense: 1}}}}}":           "providers operations paging",
		"providers: {fmp: {errors: [{nonsense: 1}]}}":                                "providers errors",
		"providers: {fmp: {tiers: {x: {nonsense: 1}}}}":                              "providers tiers",
		"providers: {fmp: {get_paths: [{nonsense: 1}]}}":                             "providers get_paths",
	} {
		at := schema
		for step := range strings.SplitSeq(path, " ") {
			inner, _ := at["properties"].(map[string]any)
			at, _ = inner[step].(map[string]any)
			if items, is := at["items"].(map[string]any); is {
				at = items
				continue
			}
			if values, is := at["patternProperties"].(map[string]any); is {
				for _, value := range values {
					at, _ = value.(map[string]any)
				}
			}
		}
		_, err := providers.Load(env(map[string]string{"FETCH_CATALOG": write(t, text)}))
		found := expected.FindStringSubmatch(err.Error())
		if found == nil {
			t.Fatalf("%s: %v", text, err)
		}
		properties, _ := at["properties"].(map[string]any)
		if known := slices.Sorted(maps.Keys(properties)); strings.Join(known, ", ") != found[1] {
			t.Errorf("%s: the schema knows\n%s, the reader\n%s", path, strings.Join(known, ", "), found[1])
		}
	}
}

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
