package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
)

// wrote is what a model gets of a value, which must have room in a result of the
// usual size.
func wrote(t *testing.T, v, into any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if n := cost(text); n > bytesAToken*standardTokens {
		t.Errorf("%d bytes where there is room for %d", n, bytesAToken*standardTokens)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// However much there is to tell of limits, it has its bound, those that can be
// asked are told first, and what is left out is counted.
func TestWhatIsToldOfLimitsHasItsBound(t *testing.T) {
	for _, many := range []int{0, 1, 40, 2000} {
		var all []fetchworker.Catalogue
		for n := range many {
			all = append(all, fetchworker.Catalogue{Provider: fmt.Sprint("provider-", n), Configured: n%2 == 1, Now: &fetchworker.Standing{
				Limits: []fetchworker.WindowLeft{{Calls: 300, Per: fetchworker.Duration(time.Minute), Left: 298}},
			}})
		}
		var told struct {
			Providers []stands `json:"providers"`
			LeftOut   string   `json:"left_out"`
		}
		if text := wrote(t, standings(all), &told); !strings.Contains(text, `"providers":[`) {
			t.Errorf("%d: no list: %s", many, text)
		}
		if left := many - len(told.Providers); (left > 0) != (many == 2000) || left == 0 && told.LeftOut != "" || left > 0 && !strings.HasPrefix(told.LeftOut, fmt.Sprint(left, " more providers")) {
			t.Errorf("%d of %d are told, and of the others: %q", len(told.Providers), many, told.LeftOut)
		}
		for i, one := range told.Providers {
			if want := min(2*i+1, many+many%2); one.Unserved != (i >= many/2) || !one.Unserved && one.Provider != fmt.Sprint("provider-", want) || len(one.Left) != 1 {
				t.Errorf("the %dth of %d is %+v", i, many, one)
			}
		}
	}
}

// The operations that fit best come first, as many as are asked for and have room,
// and those that do not are counted.
func TestTheBestComeFirstAndTheOthersAreCounted(t *testing.T) {
	for _, c := range []struct {
		operations, path, limit, told int // -1: as many as have room, fewer than asked for
	}{
		{0, 10, 0, 1},
		{9, 10, 0, 10},
		{30, 10, 0, 10},
		{30, 10, -3, 10},
		{30, 10, 1, 1},
		{30, 10, 29, 29},
		{30, 10, 31, 31},
		{30, 10, 50, 31},
		{80, 10, 50, 50},
		{80, 10, 51, 50},
		{80, 10, 1 << 40, 50},
		{80, 2000, 50, -1},
		{80, 60_000, 50, -1},
	} {
		p := fetchworker.Catalogue{Provider: "fmp", Configured: true}
		for n := range c.operations {
			p.Operations = append(p.Operations, fetchworker.CatalogueOperation{Name: fmt.Sprint("quote-", n), Path: "/" + strings.Repeat("x", c.path), Params: json.RawMessage(`{"properties":{"symbol":{}}}`)})
		}
		p.Operations = append(p.Operations, fetchworker.CatalogueOperation{Name: "quote", Path: "/q"}, fetchworker.CatalogueOperation{Name: "news", Path: "/n"})
		var told struct {
			Operations []found `json:"operations"`
			LeftOut    string  `json:"left_out"`
		}
		text := wrote(t, best([]string{"quote"}, []fetchworker.Catalogue{p}, c.limit), &told)
		n, fit := len(told.Operations), c.operations+1
		if c.told < 0 && (n == 0 || n >= 50) || c.told >= 0 && n != c.told {
			t.Errorf("%+v: %d are told: %.200s", c, n, text)
		}
		if n > 0 && told.Operations[0] != (found{Provider: "fmp", Operation: "quote", Path: "/q"}) {
			t.Errorf("%+v: the first is %+v", c, told.Operations[0])
		}
		if left := fit - n; left == 0 && told.LeftOut != "" || left > 0 && !strings.HasPrefix(told.LeftOut, fmt.Sprint(left, " more match")) {
			t.Errorf("%+v: %d are left out: %q", c, left, told.LeftOut)
		}
		if strings.Contains(text, "news") {
			t.Errorf("%+v: what does not fit is told: %.200s", c, text)
		}
	}
	// Of a provider all are told where no word is given, and where none fits anywhere,
	// what there is.
	all := []fetchworker.Catalogue{{Provider: "fmp", Operations: []fetchworker.CatalogueOperation{{Name: "quote"}, {Name: "history"}}}}
	var told struct {
		Operations []found                         `json:"operations"`
		Providers  []struct{ Operations []string } `json:"providers"`
	}
	if wrote(t, best(nil, all, 0), &told); len(told.Operations) != 2 || !told.Operations[0].Unserved {
		t.Errorf("%+v", told)
	}
	if wrote(t, best([]string{"weather"}, all, 0), &told); len(told.Providers) != 1 || !slices.Equal(told.Providers[0].Operations, []string{"quote", "history"}) {
		t.Errorf("%+v", told)
	}
	// A word of a parameter counts, one that says nothing does not.
	o := fetchworker.CatalogueOperation{Name: "history", Path: "/h", Params: json.RawMessage(`{"properties":{"from":{},"exchange":{}}}`)}
	for word, fits := range map[string]bool{"exchange": true, "exchanges": true, "from": false, "and": false, "ex": false, "weather": false} {
		if n := score([]string{word}, all[0], o); (n > 0) != fits {
			t.Errorf("%s scores %d", word, n)
		}
	}
}

// An operation is told in full where there is room, else its parameters by name.
func TestAnOperationIsToldAsFarAsThereIsRoom(t *testing.T) {
	type description struct {
		Provider, Notice, Path, Format string
		Operation                      string          `json:"operation"`
		Rights                         []string        `json:"rights"`
		Fresh                          *string         `json:"fresh_for"`
		Pages                          bool            `json:"pages"`
		Params                         json.RawMessage `json:"params"`
		LeftOut                        string          `json:"left_out"`
		Stands                         stands          `json:"stands"`
	}
	p := fetchworker.Catalogue{Provider: "fmp", Notice: "of FMP", Configured: true}
	o := fetchworker.CatalogueOperation{Name: "quote", Path: "/q", Format: "json", Rights: []string{"export"}, Pages: true, Fresh: fetchworker.Duration(time.Minute), Params: json.RawMessage(`{"properties":{"symbol":{}},"required":["symbol"]}`)}
	var told description
	wrote(t, described(p, o), &told)
	if told.Provider != "fmp" || told.Notice != "of FMP" || told.Operation != "quote" || told.Path != "/q" || told.Format != "json" || !slices.Equal(told.Rights, o.Rights) || !told.Pages || told.Fresh == nil || *told.Fresh != "1m0s" || string(told.Params) != string(o.Params) || told.LeftOut != "" || told.Stands.Provider != "fmp" || told.Stands.Unserved {
		t.Errorf("%+v", told)
	}
	o.Fresh = 0
	properties := make([]string, 400)
	for n := range properties {
		properties[n] = fmt.Sprintf(`"name-%03d":{"description":%q}`, n, strings.Repeat("x", 100))
	}
	o.Params = json.RawMessage(`{"properties":{` + strings.Join(properties, ",") + `},"required":["name-399"]}`)
	told = description{}
	wrote(t, described(p, o), &told)
	if names := string(told.Params); told.Fresh != nil || !strings.HasPrefix(names, `"name-399*, name-000, `) || !strings.HasSuffix(names, `name-010, and 388 more"`) || !strings.Contains(told.LeftOut, "too large") {
		t.Errorf("%.300s: %s", names, told.LeftOut)
	}
	if got := briefly(json.RawMessage(`{"properties":[`)); got != "" {
		t.Errorf("no schema has the parameters %s", got)
	}

	// Of one that nobody tells of nothing is told, and of one that is known all.
	if s := standing(fetchworker.Catalogue{Provider: "fmp"}); !s.Unserved || s.Left != nil || s.Bytes != "" || !s.NextAt.IsZero() {
		t.Errorf("%+v", s)
	}
	p.Now = &fetchworker.Standing{
		Bytes: &fetchworker.BytesLeft{Used: 2, Limit: 3, Ends: time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)},
		Open:  []fetchworker.OpenCalls{{Operation: "history"}, {Operation: "news"}},
	}
	if s := standing(p); s.Bytes != "67 % of the month's, which ends 2026-12-31" || !slices.Equal(s.Failing, []string{"history", "news"}) {
		t.Errorf("%+v", s)
	}
}

// What a model is told of its mistakes names the argument and what belongs there,
// and nothing that only the program's code knows.
func TestAMistakeIsToldInTheWordsOfTheTool(t *testing.T) {
	for arguments, want := range map[string]string{
		`{"provider":7,"operation":"o"}`:                      `provider: 7 is no text`,
		`{"provider":true,"operation":"o"}`:                   `provider: true is no text`,
		`{"provider":{"a":1},"operation":"o"}`:                `provider: {"a":1} is no text`,
		`{"provider":["p"],"operation":"o"}`:                  `provider: ["p"] is no text`,
		`{"provider":"p","operation":"o","use":"export"}`:     `use: "export" is no list of texts`,
		`{"provider":"p","operation":"o","use":[1]}`:          `use: [1] is no list of texts`,
		`{"provider":"p","operation":"o","use":[["a"]]}`:      `use: [["a"]] is no list of texts`,
		`{"provider":"p","operation":"o","wait":5.5}`:         `wait: 5.5 is no whole number`,
		`{"provider":"p","operation":"o","wait":"soon"}`:      `wait: "soon" is no whole number`,
		`{"provider":"p","operation":"o","max_tokens":[]}`:    `max_tokens: [] is no whole number`,
		`{"provider":"p","operation":"o","max_tokens":1e300}`: `max_tokens: 1e300 is no whole number`,
		`{"provider":"p","operation":"o","max_age":30}`:       `max_age: 30 is no text`,
		`{"provider":"p","operation":"o","qery":"x"}`:         `there is no argument "qery"`,
		`{"provider":"p"}`:                                    `operation is needed`,
		`{"provider":"p","operation":null}`:                   `operation is needed`,
		`[]`:                                                  `the arguments are a JSON object`,
		`{"provider":"` + strings.Repeat("p", 99) + `","operation":[` + strings.Repeat("1,", 99) + `1]}`: `operation: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1… is no text`,
	} {
		var in fetchInput
		err := decode(json.RawMessage(arguments), &in, []string{"provider", "operation"})
		if err == nil || err.Error() != want {
			t.Errorf("%.60s: %v, want %s", arguments, err, want)
		}
	}
	for err, want := range map[error]string{
		fetchworker.ErrNoAnswer:     "nothing is stored",
		fetchworker.ErrIDReused:     "used before",
		fetchworker.ErrQueueFull:    "too many requests are waiting",
		fetchworker.ErrNotPermitted: "does not permit",
		fetchworker.ErrBodyCorrupt:  "another id",
		fetchworker.ErrNobodyServes: "no worker answers",
		fetchworker.ErrClosed:       "cannot be reached",
		context.DeadlineExceeded:    "cannot be reached",
		context.Canceled:            "cannot be reached",
		&fetchworker.RequestError{Field: "params", Want: "a JSON object"}: "params: a JSON object",
		errors.New("something else"):                                      "something else",
	} {
		var told struct {
			Error string `json:"error"`
		}
		r := wrong(fmt.Errorf("wrapped: %w", err))
		if text, ok := r.StructuredContent.(json.RawMessage); !ok || !r.IsError || json.Unmarshal(text, &told) != nil || !strings.Contains(told.Error, want) {
			t.Errorf("%v is told as %+v", err, told)
		}
		var invalid *fetchworker.RequestError
		if errors.As(err, &invalid) && told.Error != want {
			t.Errorf("%v is told as %q", err, told.Error)
		}
	}
}
