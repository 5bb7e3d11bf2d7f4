package providers_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/catalogue"
	planning "fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/providers/sheet"
)

// Whatever a catalogue says, reading it ends in mistakes or in sheets that can
// be called: no panic, and no sheet that is accepted and then cannot make a
// call. go test -fuzz FuzzCatalogue ./internal/providers looks for more.
func FuzzCatalogue(f *testing.F) {
	for _, pattern := range []string{"../../examples/*.yaml", "../../examples/*/*.yaml", "testdata/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(content))
		}
	}
	for _, text := range []string{op("path: /a"), more("auth: {basic: {user_env: A, password_env: B}}"), more("get_paging: {kind: page, param: p, each: 1}"), "providers: {x: *a}", "providers: &a {x: *a}"} {
		f.Add(text)
	}
	server := providertest.Pipe("fuzz.test")
	f.Cleanup(server.Close)

	f.Fuzz(func(t *testing.T, text string) {
		builtin := func(map[string]string) map[string]sheet.Spec { return map[string]sheet.Spec{} }
		specs, wrong, err := catalogue.Read("catalog.yaml", []byte(text), builtin)
		if err != nil || len(wrong) > 0 {
			return
		}
		for name, spec := range specs {
			if _, err := planning.New(spec); err != nil {
				t.Fatalf("%s was accepted, and then: %v", name, err)
			}
			spec.BaseURL = "http://fuzz.test" // every connection leads to the server
			api, err := planning.New(spec)
			if err != nil {
				t.Fatal(err)
			}
			for operation, of := range api.Operations {
				params := map[string]string{}
				for i := range of.Params {
					if value, ok := anyValue(&of.Params[i]); ok {
						params[of.Params[i].Name] = value
					}
				}
				if operation == "get" {
					params = map[string]string{"path": "/a"}
				}
				raw, err := json.Marshal(params)
				if err != nil {
					t.Fatal(err)
				}
				call, err := api.Plan(operation, raw)
				if err != nil {
					continue // the values may not fit its patterns
				}
				if r := providers.CallOf(t, api, server.DialContext, call); r.HTTPStatus == 0 && r.ErrorType == "network" && r.Sent {
					t.Fatalf("%s %s is accepted and cannot be called: %s", name, operation, r.Detail)
				}
				for _, body := range []string{`{}`, `[1]`, `{"next":"x"}`, ``} {
					api.Next(call, nil, []byte(body))
				}
			}
		}
	})
}

func anyValue(p *sheet.Param) (string, bool) {
	switch p.Type {
	case sheet.TypeInt, sheet.TypeNumber:
		return "1", true
	case sheet.TypeBool:
		return "true", true
	case sheet.TypeEnum:
		return p.Enum[0], true
	case sheet.TypeDate, sheet.TypeDateOrMS, sheet.TypeTime:
		return "2026-02-13", true
	case sheet.TypeString, sheet.TypeCSV:
	}
	if len(p.Enum) > 0 {
		return p.Enum[0], true
	}
	return "a", p.Required
}
