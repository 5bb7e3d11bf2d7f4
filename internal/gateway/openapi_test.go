package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"fetchworker/internal/providers"

	"github.com/getkin/kin-openapi/openapi3"
)

// The document is made of the sheets that ship, and a library that knows the
// standard has nothing against it.
func TestTheDescriptionIsOpenAPI(t *testing.T) {
	r := newRig(t, nil)
	set, err := providers.Load(func(name string) string {
		return map[string]string{"FETCH_CATALOG": "../../examples/catalog.yaml"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	operations := 0
	for _, p := range set.All() {
		sheet, _ := set.Tell(p.Name)
		r.sheets[p.Name] = sheet
		operations += len(sheet.Operations)
	}
	s := r.get("/openapi.json")
	if s.StatusCode != http.StatusOK || s.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v", s.StatusCode, s.Header)
	}
	loader := openapi3.NewLoader()
	document, err := loader.LoadFromData([]byte(s.body))
	if err != nil {
		t.Fatal(err)
	}
	if err := document.Validate(t.Context(), openapi3.IsOpenAPI31OrLater()); err != nil {
		t.Error(err)
	}
	if document.OpenAPI != "3.1.0" {
		t.Error(document.OpenAPI)
	}
	ids, asked := map[string]bool{}, 0
	for path, item := range document.Paths.Map() {
		for method, o := range item.Operations() {
			if ids[o.OperationID] || o.OperationID == "" {
				t.Errorf("%s %s: %q is not its own id", method, path, o.OperationID)
			}
			if ids[o.OperationID] = true; strings.HasPrefix(o.OperationID, "ask_") {
				asked++
			}
		}
	}
	if asked != operations {
		t.Errorf("%d operations of %d are in it", asked, operations)
	}
	quote := document.Paths.Find("/v1/fmp/quote")
	if quote == nil || quote.Get.Parameters.GetByInAndName("query", "symbol") == nil || !quote.Get.Parameters.GetByInAndName("query", "symbol").Required {
		t.Fatal("a quote has no symbol")
	}
	body := quote.Post.RequestBody.Value.Content["application/json"].Schema.Value
	for text, good := range map[string]bool{`{"params":{"symbol":"AAPL"},"max_age":"30s"}`: true, `{"params":{"symbol":"AAPL","colour":1}}`: false, `{"params":{}}`: false, `{}`: false, `{"max_age":"soon"}`: false} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := body.VisitJSON(v, openapi3.EnableJSONSchema2020()); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
	// A generator makes nothing of two types of one value.
	if strings.Contains(s.body, `"type":[`) {
		t.Errorf("a value has two types: %.200s", s.body[strings.Index(s.body, `"type":[`):])
	}
	limit := document.Paths.Find("/v1/fmp/income_statement").Get.Parameters.GetByInAndName("query", "limit").Schema.Value
	if !limit.Type.Is("integer") {
		t.Errorf("a number is described as %v", limit.Type)
	}
	if same := r.get("/openapi.json", "If-None-Match", s.Header.Get("ETag")); same.StatusCode != http.StatusNotModified {
		t.Error(same.StatusCode)
	}
}
