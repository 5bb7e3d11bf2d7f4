package plan_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
)

// FuzzPages: whatever a provider says of the next page, in a header, a cursor
// or a count, it can be asked as it is, is another page of the same operation,
// carries no key of its own, and where pages are counted comes after this one.
func FuzzPages(f *testing.F) {
	for _, seed := range []string{
		`<https://api.example.com/v1/link?cursor=2>; rel="next"`, `</v1/link?cursor=2>; rel=next, <x>; rel="prev"`, `<a>; rel="prev",</v1/link?cursor=%2e%2e&token=stolen>; rel="last next"`, `<`, `<>`, `<>;rel=next,<`, `<//evil/v1/link?cursor=a>;rel="next"`,
		`{"next":"abc","items":[1,2],"total":99}`, `{"next":"","items":[],"total":0}`, `{"next":null}`, `{"next":{"a":1}}`, `{"items":[1,2],"total":"9223372036854775807"}`, `{"items":[1,2,3],"total":1e400}`, `{"next":"\u0000"}`,
	} {
		f.Add(seed, "1", "2")
		f.Add(seed, "9223372036854775807", "1")
	}
	params := []sheet.Param{{Name: "cursor", Type: sheet.TypeString}, {Name: "page", Type: sheet.TypeInt}, {Name: "size", Type: sheet.TypeInt}}
	operations := map[string]*sheet.Operation{}
	for name, paging := range map[string]*sheet.Paging{
		"link":   {Kind: sheet.PageLink, Param: "cursor"},
		"token":  {Kind: sheet.PageToken, Next: "/next", Param: "cursor"},
		"number": {Kind: sheet.PageNumber, Items: "/items", Param: "page", Size: "size", First: 1, Each: 2},
		"total":  {Kind: sheet.PageNumber, Total: "/total", Param: "page", Size: "size", First: 1, Each: 2},
		"offset": {Kind: sheet.PageOffset, Items: "/items", Param: "page", Size: "size", Each: 2},
	} {
		operations[name] = &sheet.Operation{Name: name, Path: "/" + name, Params: params, Paging: paging}
	}
	api, err := plan.New(sheet.Spec{
		Name: "shop", BaseURL: "https://api.example.com/v1", EnvPrefix: "SHOP", Timeout: time.Second,
		Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "token"}}, Operations: operations,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, said, page, size string) {
		for name := range operations {
			asked := map[string]string{"page": page, "size": size}
			if name == "link" || name == "token" {
				asked = map[string]string{"cursor": page}
			}
			text, err := json.Marshal(asked)
			if err != nil {
				t.Fatal(err)
			}
			call, err := api.Plan(name, text)
			if err != nil {
				continue
			}
			next, loop := api.Next(call, http.Header{"Link": {said}}, []byte(said))
			if next == nil {
				continue
			}
			follows, err := api.Plan(name, next)
			if err != nil || loop || follows.Key == call.Key || follows.Operation != call.Operation {
				t.Fatalf("after %s of %s comes %s: %v, loop %t", text, name, next, err, loop)
			}
			target := follows.Target()
			if !strings.HasPrefix(target, "/v1/"+name) || strings.Contains(target, "token=") {
				t.Fatalf("after %s of %s comes %s", text, name, target)
			}
			if name == "link" || name == "token" {
				continue
			}
			var values map[string]string
			if err := json.Unmarshal(next, &values); err != nil {
				t.Fatal(err)
			}
			before, _ := strconv.ParseInt(page, 10, 64)
			if after, err := strconv.ParseInt(values["page"], 10, 64); err != nil || after <= before {
				t.Fatalf("after page %q of %s comes %q: %v", page, name, values["page"], err)
			}
		}
	})
}
