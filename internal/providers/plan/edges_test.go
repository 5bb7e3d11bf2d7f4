package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/providers/sheet"
)

// Where there is a next page, and what asks for it can be stored.
func TestWhereThereIsANextPage(t *testing.T) {
	api := func(paging sheet.Paging) *API {
		p, err := New(sheet.Spec{
			Name: "x", BaseURL: "https://x.test", EnvPrefix: "X", Timeout: time.Second, Auth: []sheet.Auth{{Kind: sheet.AuthNone}},
			Operations: map[string]*sheet.Operation{"list": {
				Name: "list", Path: "/list", Paging: &paging,
				Params: []sheet.Param{
					{Name: "page", Type: sheet.TypeInt}, {Name: "size", Type: sheet.TypeInt}, {Name: "cursor", Type: sheet.TypeString, Max: 100_000},
				},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	numbered := api(sheet.Paging{Kind: sheet.PageNumber, Param: "page", First: 1, Size: "size", Each: 10, Total: "/total"})
	offset := api(sheet.Paging{Kind: sheet.PageOffset, Param: "page", Size: "size", Each: 10, Total: "/total"})
	token := api(sheet.Paging{Kind: sheet.PageToken, Param: "cursor", Next: "/next"})
	for name, c := range map[string]struct {
		p      *API
		params string
		body   string
		next   bool
	}{
		"the first of two":          {numbered, `{}`, `{"total":11}`, true},
		"the first of one, full":    {numbered, `{}`, `{"total":10}`, false},
		"the first of one":          {numbered, `{}`, `{"total":9}`, false},
		"the last, full":            {numbered, `{"page":3}`, `{"total":30}`, false},
		"the last but one":          {numbered, `{"page":3}`, `{"total":31}`, true},
		"no total":                  {numbered, `{}`, `{}`, false},
		"offset, the last, full":    {offset, `{"page":20}`, `{"total":30}`, false},
		"offset, the last but one":  {offset, `{"page":20}`, `{"total":31}`, true},
		"a token":                   {token, `{}`, `{"next":"abc"}`, true},
		"its own token":             {token, `{"cursor":"abc"}`, `{"next":"abc"}`, false},
		"a token that can be kept":  {token, `{}`, fmt.Sprintf(`{"next":%q}`, strings.Repeat("a", 8000)), true},
		"a token that cannot":       {token, `{}`, fmt.Sprintf(`{"next":%q}`, strings.Repeat("a", 8190)), false},
		"a token beyond all bounds": {token, `{}`, fmt.Sprintf(`{"next":%q}`, strings.Repeat("a", 80_000)), false},
	} {
		planned, err := c.p.Plan("list", []byte(c.params))
		if err != nil {
			t.Fatal(err)
		}
		next, _ := c.p.Next(planned, nil, []byte(c.body))
		if (next != nil) != c.next || len(next) > maxNext {
			t.Errorf("%s: %.60s", name, next)
		}
	}
}

// What get asks below a path that has keys of its own is asked with those, and
// what is not below it with the provider's.
func TestAPathHasItsOwnKeys(t *testing.T) {
	own := []sheet.Auth{{Kind: sheet.AuthHeader, Name: "X-Other", Env: "OTHER_KEY"}}
	inner := []sheet.Auth{{Kind: sheet.AuthHeader, Name: "X-Inner", Env: "INNER_KEY"}}
	p, err := New(sheet.Spec{
		Name: "x", BaseURL: "https://x.test/v1", EnvPrefix: "X", Timeout: time.Second, Auth: []sheet.Auth{{Kind: sheet.AuthBearer}},
		GetPaths:   []sheet.GetPath{{Prefix: "/own/inner/", Auth: inner}, {Prefix: "/own/", Auth: own}, {Prefix: "/top/", FromRoot: true}, {Prefix: "/top/a", Auth: inner}},
		Operations: map[string]*sheet.Operation{"y": {Name: "y", Path: "/y"}, "z": {Name: "z", Path: "/z", Auth: []sheet.Auth{{Kind: sheet.AuthBasic, UserEnv: "USER_NAME", PasswordEnv: "PASSWORD"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct{ path, auth string }{
		"/own/a": {"/v1/own/a", "X-Other"}, "/top/a": {"/top/a", ""}, "/owner/a": {"/v1/owner/a", ""}, "/a": {"/v1/a", ""},
		"/own/inner/a": {"/v1/own/inner/a", "X-Inner"}, "/own/inner": {"/v1/own/inner", "X-Other"}, // the first that is before it counts
	} {
		planned, err := p.Plan(sheet.Get, []byte(`{"path":"`+path+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		if planned.Path != want.path || len(planned.Auth) != 1 || planned.Auth[0].Name != want.auth {
			t.Errorf("%s: %s with %+v", path, planned.Path, planned.Auth)
		}
	}
	// All that it may need is asked for, and no more is needed to begin.
	if all := p.AllVariables(); !slices.Equal(all, []string{"INNER_KEY", "OTHER_KEY", "PASSWORD", "USER_NAME", "X_API_KEY"}) {
		t.Errorf("%q", all)
	}
	if needed := p.Variables(); !slices.Equal(needed, []string{"X_API_KEY"}) {
		t.Errorf("needed: %q", needed)
	}
}

// Of a next page's address what the operation can say is taken as it is, and of
// any other its cursor only.
func TestWhatANextAddressSays(t *testing.T) {
	p, err := New(sheet.Spec{
		Name: "x", BaseURL: "https://x.test/v1", EnvPrefix: "X", Timeout: time.Second, Auth: []sheet.Auth{{Kind: sheet.AuthQuery, Name: "apikey"}},
		Query: map[string]string{"format": "json"},
		Operations: map[string]*sheet.Operation{"list": {
			Name: "list", Path: "/list/{of}", Paging: &sheet.Paging{Kind: sheet.PageNext, Next: "/next", Param: "cursor"},
			Params: []sheet.Param{
				{Name: "of", Type: sheet.TypeString, Required: true}, {Name: "size", Type: sheet.TypeInt}, {Name: "cursor", Type: sheet.TypeString, Wire: "c"},
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	planned, err := p.Plan("list", []byte(`{"of":"a","size":5}`))
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"https://x.test/v1/list/a?size=7&c=2":             `{"cursor":"2","of":"a","size":"7"}`,
		"//other.test:443:443/list/a?size=7&c=2&apikey=k": `{"cursor":"2","of":"a","size":"7"}`,
		"/v1/list/b%20c?c=2#end":                          `{"cursor":"2","of":"b c"}`,
		"/v1/list/a?size=7&c=2&format=json":               `{"cursor":"2","of":"a","size":"7"}`,
		"/v1/list/a?size=7&size=8&c=2":                    `{"cursor":"2","of":"a","size":"5"}`, // which of both nobody knows
		"/v1/list/a?size=7&c=2&odd=1":                     `{"cursor":"2","of":"a","size":"5"}`,
		"/v1/lists/a?size=7&c=2":                          `{"cursor":"2","of":"a","size":"5"}`,
		"/v1/list/a/b?size=7&c=2":                         `{"cursor":"2","of":"a","size":"5"}`,
		"/v1/lists/a?size=7":                              "",
		"/v1/list/a?size=5":                               "", // itself
		"":                                                "",
		"null":                                            "",
		"/v1/list/a?c=%zz":                                "",
		"/v1/list/a?c=" + strings.Repeat("a", 2*maxNext):  "",
	} {
		next, _ := p.Next(planned, nil, fmt.Appendf(nil, `{"next":%q}`, address))
		if string(next) != want {
			t.Errorf("%.60s: %s, want %s", address, next, want)
		}
	}
}

// A parameter that is given twice is refused whatever its values are: which of
// them is meant nobody can tell, and readers of JSON differ in which they take.
func TestAParameterIsGivenOnce(t *testing.T) {
	p, err := New(sheet.Spec{
		Name: "x", BaseURL: "https://x.test/v1", EnvPrefix: "X", Timeout: time.Second, Auth: []sheet.Auth{{Kind: sheet.AuthBearer}},
		Operations: map[string]*sheet.Operation{"y": {Name: "y", Path: "/y", Params: []sheet.Param{{Name: "symbol", Type: sheet.TypeString}, {Name: "limit", Type: sheet.TypeString}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for params, twice := range map[string]string{
		`{"symbol":"A","symbol":"B"}`:                       "symbol",
		`{"symbol":"A","symbol":"A"}`:                       "symbol",
		`{"symbol":"A","limit":"1","symbol":"A"}`:           "symbol",
		`{"symbol":"A","limit":"1","limit":"2"}`:            "limit",
		`{"symbol":"A","limit":"1","limit":"2","symbol":7}`: "limit",
		`{"symbol":"A","symbol":null}`:                      "symbol",
		`{"symbol":null,"symbol":"A"}`:                      "symbol",
		`{"symbol":"A","s\u0079mbol":"B"}`:                  "symbol",
		` { "symbol" : "A" , "symbol" : "B" } `:             "symbol",
		`{"nothing":1,"nothing":2}`:                         "nothing",
		`{"":1,"":2}`:                                       "",
		`{"symbol":"A","limit":"1"}`:                        "-",
		`{"symbol":"A","limit":null}`:                       "-",
		`{"symbol":"A","Symbol":null}`:                      "-",
		`{"symbol":"{\"symbol\":1}"}`:                       "-",
	} {
		_, err := p.Plan("y", []byte(params))
		var wrong *sheet.ParamError
		if twice == "-" {
			if err != nil {
				t.Errorf("%s: %v", params, err)
			}
		} else if !errors.As(err, &wrong) || wrong.Param != twice || !strings.Contains(err.Error(), "given more than once") {
			t.Errorf("%s: %v", params, err)
		}
	}
	for params, twice := range map[string]string{
		`{"path":"/a","path":"/b"}`: "path", `{"path":"/a","query":{},"query":{}}`: "query", `{"path":"/a","query":{"b":1,"b":2}}`: "query.b", `{"path":"/a","query":{"b":[1,2],"c":1}}`: "-",
	} {
		_, err := p.Plan(sheet.Get, []byte(params))
		var wrong *sheet.ParamError
		if errors.As(err, &wrong) != (twice != "-") || wrong != nil && wrong.Param != twice || wrong == nil && err != nil {
			t.Errorf("%s: %v", params, err)
		}
	}
}
