package cancel

import (
	"strings"
	"testing"
	"time"

	"fetchworker"
)

// TestALaterOrderOfAnEarlierMomentTakesNothingBack: of two orders, the one
// whose moment is older may be stored last.
func TestALaterOrderOfAnEarlierMomentTakesNothingBack(t *testing.T) {
	early := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	late := early.Add(time.Minute)
	request := Request{Identity: fetchworker.Identity{Operation: "quote"}, Lane: fetchworker.LaneBatch, Stored: late.Add(-time.Second)}
	for name, c := range map[string]struct {
		first, second Order
		want          Verdict
	}{
		"by ids":                   {Order{Operation: "quote", IDs: []string{"a"}}, Order{Operation: "quote", IDs: []string{"b"}}, Look},
		"by ids, an operator's":    {Order{Operation: "quote", IDs: []string{"a"}}, Order{}, Look},
		"all twice":                {Order{All: true}, Order{All: true}, Cancelled},
		"of a lane, then all":      {Order{All: true, Lane: fetchworker.LaneBatch}, Order{All: true}, Cancelled},
		"all, then an operation's": {Order{All: true}, Order{All: true, Operation: "quote"}, Cancelled},
	} {
		m, err := Mark{}.with(c.first, late, time.Hour)
		if err == nil {
			m, err = m.with(c.second, early, time.Hour)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := m.judge(request); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// An order is taken for what it says and for nothing else: a field by its very
// name, and once. What is refused is told in an agent's words.
func TestAnOrderIsReadByItsVeryNames(t *testing.T) {
	for body, want := range map[string]string{
		`{"ALL":true}`:                                  `"ALL": no such field`,
		`{"Operation":"quote","ids":["q"]}`:             `"Operation": no such field`,
		`{"all":false,"all":true}`:                      `"all": no such field, or given twice`,
		`{"operation":"quote","ids":["a"],"ids":["b"]}`: `"ids": no such field, or given twice`,
		`{"all":true,"zz":null}`:                        `"zz": no such field`,
		`{"all":"true"}`:                                "all: true or false",
		`{"all":1}`:                                     "all: true or false",
		`{"operation":"quote","ids":"q"}`:               "ids: a list of texts",
		`{"operation":"quote","ids":[5]}`:               "ids: a list of texts",
		`{"operation":5,"ids":["q"]}`:                   "operation: a text",
		`{"all":true,"lane":["batch"]}`:                 "lane: a text",
		``:                                              "no JSON object",
		`[]`:                                            "no JSON object",
		`null`:                                          "no JSON object",
		`"all"`:                                         "no JSON object",
		`{`:                                             "no JSON object",
		`{"all"`:                                        "no JSON object",
		`{"all":tru}`:                                   "no JSON object",
		`{"all":true`:                                   "no JSON object",
		`{"all":true]`:                                  "no JSON object",
		`{"all":true}{}`:                                "no JSON object, or something follows it",
		"\xef\xbb\xbf{\"all\":true}":                    "no JSON object",
		`{"` + strings.Repeat("a", 5000) + `":1}`: "no such field",
	} {
		_, err := decodeOrder([]byte(body))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "Go ") || strings.Contains(err.Error(), "EOF") || len(err.Error()) > 250 {
			t.Errorf("%.60s: %v, want %s", body, err, want)
		}
	}
	for _, body := range []string{`{"all":true}`, ` {"all" : true, "lane":null, "ids":null, "operation":null} `, `{"operation":"quote","ids":["b","a","a"],"all":false}`, `{"\u0061ll":true}`} {
		if _, err := decodeOrder([]byte(body)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}
