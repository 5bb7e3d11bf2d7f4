package call

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
)

// Whatever path and query an agent writes, a planned get stays below the
// provider's host, decoding it any number of times climbs nowhere, and no key
// but ours is in it.
func TestGetStaysInside(t *testing.T) {
	api, err := plan.New(sheet.Spec{
		Name: "fred", BaseURL: "https://api.stlouisfed.org/fred", EnvPrefix: "FRED", Timeout: time.Second,
		Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "api_key"}},
		GetPaths: []sheet.GetPath{
			{Prefix: "/v2/", Auth: []sheet.Auth{{Kind: sheet.AuthBearer}}},
			{Prefix: "/geofred/", FromRoot: true, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "api_key"}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := New(api, func(string) string { return "k" }, nil)
	part := rapid.SampledFrom([]string{"/", "a", "..", ".", "%2e", "%2F", "%252e", "%25", "%", "@", ":", "?", "#", `\`, "//", "http://", "é", " ", "\x00", "\n", "%0a", ";", "fred", "v2", "geofred"})
	rapid.Check(t, func(t *rapid.T) {
		path := strings.Join(rapid.SliceOfN(part, 0, 8).Draw(t, "path"), "")
		query := map[string]string{rapid.SampledFrom([]string{"a", "api_key", "Api_Key", "&api_key", "b=c"}).Draw(t, "name"): path}
		params, err := json.Marshal(map[string]any{"path": path, "query": query})
		if err != nil {
			t.Fatal(err)
		}
		call, err := api.Plan("get", params)
		if err != nil {
			return
		}
		req, err := p.request(t.Context(), call, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if req.URL.Host != "api.stlouisfed.org" || req.URL.User != nil || req.URL.Fragment != "" {
			t.Fatalf("%s leads to %s", params, req.URL)
		}
		if climbs := req.URL.EscapedPath(); strings.Contains(climbs, "..") || strings.Contains(strings.ToLower(climbs), "%2") && !strings.Contains(climbs, "%20") || strings.HasPrefix(climbs, "//") {
			t.Fatalf("%s climbs: %s", params, climbs)
		}
		inQuery := call.Auth[0].Kind == sheet.AuthQuery
		if keys := req.URL.Query()["api_key"]; len(keys) > 1 || inQuery != (len(keys) == 1 && keys[0] == "k") {
			t.Fatalf("%s sends the keys %q", params, keys)
		}
	})
}
