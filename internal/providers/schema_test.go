package providers_test

import (
	"encoding/json"
	"slices"
	"testing"

	"fetchworker/internal/providers"
)

// What agents are told of a provider's operations names every parameter, and
// those that are needed.
func TestWhatIsToldNamesEveryParameter(t *testing.T) {
	set, err := providers.Load(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	if _, known := set.Tell("nobody"); known {
		t.Error("nobody is known")
	}
	for _, p := range set.All() {
		told, _ := set.Tell(p.Name)
		if len(told.Operations) != len(p.Operations) || told.Configured {
			t.Errorf("%s: %d operations are told, configured %t", p.Name, len(told.Operations), told.Configured)
		}
		for _, o := range told.Operations {
			var schema struct {
				Type       string                     `json:"type"`
				Properties map[string]json.RawMessage `json:"properties"`
				Required   []string                   `json:"required"`
			}
			if err := json.Unmarshal(o.Params, &schema); err != nil || schema.Type != "object" {
				t.Fatalf("%s %s: %s: %v", p.Name, o.Name, o.Params, err)
			}
			for _, param := range p.Operations[o.Name].Params {
				if _, ok := schema.Properties[param.Name]; !ok || slices.Contains(schema.Required, param.Name) != param.Required {
					t.Errorf("%s %s: %s is told wrongly: %s", p.Name, o.Name, param.Name, o.Params)
				}
			}
		}
	}
}
