package plan_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
)

// FuzzPlan: wherever an agent's parameters would lead, the call stays below the
// base and its own path, and what comes after a page can be asked as it is.
func FuzzPlan(f *testing.F) {
	for _, seed := range []string{
		`{"name":"AAPL"}`, `{"name":".."}`, `{"name":"."}`, `{"name":"../../admin"}`, `{"name":"a/b"}`, `{"name":"%2e%2e"}`, `{"name":"a?b#c"}`, `{"name":"\\.."}`,
		`{"name":""}`, `{"name":"a\u0000b"}`, `{"path":"/a/b","query":{"x":"1"}}`, `{"path":"/../x"}`, `{"path":"//host/x"}`, `{"path":"/a/%2e%2e/b"}`, `{"path":"/x","query":{"cursor":"2"}}`,
	} {
		f.Add(seed, `{"next":"https://api.example.com/v1/items/x?cursor=2"}`)
		f.Add(seed, `{"next":"https://evil.example.com/v1/items/x?cursor=2"}`)
	}
	api, err := plan.New(sheet.Spec{
		Name: "shop", BaseURL: "https://api.example.com/v1", EnvPrefix: "SHOP", Timeout: time.Second, Auth: []sheet.Auth{{Kind: sheet.AuthBearer}},
		GetPaging: &sheet.Paging{Kind: sheet.PageNext, Next: "/next"},
		Operations: map[string]*sheet.Operation{"item": {
			Name: "item", Path: "/items/{name}", Params: []sheet.Param{{Name: "name", Type: sheet.TypeString, Required: true}, {Name: "cursor", Type: sheet.TypeString}},
			Paging: &sheet.Paging{Kind: sheet.PageNext, Next: "/next", Param: "cursor"},
		}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, params, body string) {
		for operation, below := range map[string]string{"item": "/v1/items/", "get": "/v1/"} {
			call, err := api.Plan(operation, json.RawMessage(params))
			if err != nil {
				continue
			}
			target, err := url.Parse("https://api.example.com" + call.Target())
			if err != nil || target.Host != "api.example.com" || target.User != nil || target.Fragment != "" {
				t.Fatalf("%s of %s leads to %s: %v", operation, params, call.Target(), err)
			}
			for decoded := target.Path; ; {
				if clean := path.Clean(strings.ReplaceAll(decoded, `\`, "/")) + "/"; !strings.HasPrefix(clean, below) {
					t.Fatalf("%s of %s leads to %q, out of %s", operation, params, decoded, below)
				}
				again, err := url.PathUnescape(decoded)
				if err != nil || again == decoded {
					break
				}
				decoded = again
			}
			next, loop := api.Next(call, http.Header{"Link": {body}}, []byte(body))
			if next == nil {
				continue
			}
			page, err := api.Plan(operation, next)
			if err != nil || page.Key == call.Key || loop {
				t.Fatalf("after %s comes %s: %v, loop %t", params, next, err, loop)
			}
		}
	})
}
