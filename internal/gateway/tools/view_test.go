package tools

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func shown(t *testing.T, body, contentType, pointer, rows, search string, room int) *view {
	t.Helper()
	q, err := newQuery(pointer, rows, search)
	if err != nil {
		t.Fatal(err)
	}
	v, err := look([]byte(body), contentType, q, room)
	if err != nil {
		t.Fatal(err)
	}
	if cost(v.Body) > room+400 {
		t.Errorf("%d bytes where there is room for %d", cost(v.Body), room)
	}
	if len(v.Body) > 0 && !json.Valid(v.Body) {
		t.Errorf("no JSON: %s", v.Body)
	}
	return v
}

func TestWhatIsShownOfABody(t *testing.T) {
	long := strings.Repeat("x", 5000)
	table := "date,close\n" + strings.Repeat("2026-02-13,191.31\n", 100)
	history := fmt.Sprintf(`{"symbol":"AAPL","note":%q,"historical":[%s{"d":"last"}],"a/b":{"c~d":[1,2,3]}}`, long, strings.Repeat(`{"d":"2026-02-13","c":1},`, 400))
	for name, c := range map[string]struct {
		body, contentType, pointer, rows, search string
		body1, rows1, left                       string // parts of what is shown
	}{
		"small":                      {`{"a":1}`, "", "", "", "", `{"a":1}`, "", ""},
		"a number":                   {`42`, "", "", "", "", `42`, "", ""},
		"an object outlined":         {history, "", "", "", "", `"historical":"left out: an array of 401, 10014 bytes, at pointer /historical"`, "", "pointer"},
		"its rows, without a word":   {history, "", "", "400", "", "", "", ""},
		"its rows":                   {history, "", "/historical", "400-", "", `[{"d":"last"}]`, "400-400", ""},
		"a name with a slash":        {history, "", "/a~1b/c~0d", "", "", `[1,2,3]`, "0-2", ""},
		"a pointer without a slash":  {history, "", "symbol", "", "", `"AAPL"`, "", ""},
		"a search in an object":      {history, "", "", "", "last", `[{"pointer":"/historical/400/d","value":"last"}]`, "", ""},
		"a long text in rows":        {history, "", "/note", "2", "", strings.Repeat("x", 1000), "2-2", ""},
		"a table":                    {table, "text/csv", "", "100", "", `["2026-02-13,191.31"]`, "100-100", ""},
		"a search in a table":        {table, "text/csv", "", "", "DATE", `[{"row":0,"value":"date,close"}]`, "", ""},
		"one large row":              {`[{"a":1,"b":"` + long + `"},2]`, "", "", "", "", `{"a":1,"b":"left out: a text of 5000 bytes, at pointer /0/b"}`, "0-0", "row 0 is shown in part"},
		"one line of a megabyte":     {strings.Repeat("y", 1<<20), "text/plain", "", "", "", `"yyyy`, "0-0", `rows "1-524"`},
		"lines of letters of 2":      {strings.Repeat("é", 3000), "text/plain", "", "1", "", `é`, "1-1", ""},
		"an image":                   {"\x89PNG\xff", "image/png", "", "", "", "", "", "not text"},
		"nothing":                    {"", "", "", "", "", "", "", ""},
		"a search that finds nobody": {`[1,2]`, "", "", "", "x", `[]`, "", ""},
	} {
		if name == "its rows, without a word" {
			continue // two arrays below: see the mistakes
		}
		t.Run(name, func(t *testing.T) {
			v := shown(t, c.body, c.contentType, c.pointer, c.rows, c.search, 6000)
			if !strings.Contains(string(v.Body), c.body1) || v.Rows != c.rows1 || !strings.Contains(v.LeftOut, c.left) || (c.left == "") != (v.LeftOut == "") {
				t.Errorf("%.300s rows %q left out %q", v.Body, v.Rows, v.LeftOut)
			}
		})
	}
	if v := shown(t, table, "text/csv", "", "5-6", "", 6000); v.Header != "date,close" {
		t.Errorf("%+v", v)
	}
	if v := shown(t, `{"meta":{},"results":[1,2,3]}`, "", "", "1-2", "", 6000); string(v.Body) != "[2,3]" {
		t.Errorf("the only array of an object: %s", v.Body)
	}
	for _, c := range [][3]string{{`{"a":[1],"b":[2]}`, "", "0"}, {`{"a":1}`, "/b", ""}, {`[1]`, "/1", ""}, {`[1]`, "/-1", ""}, {`1`, "/a", ""}, {"text", "/a", ""}, {`[1]`, "", "1"}} {
		q, err := newQuery(c[1], c[2], "")
		if err != nil {
			t.Fatal(err)
		}
		if v, err := look([]byte(c[0]), "", q, 6000); err == nil {
			t.Errorf("%v: %+v", c, v)
		}
	}
	for _, rows := range []string{"a", "-5", "5-4", "1-2-3", "1.5", "1,2"} {
		if q, err := newQuery("", rows, ""); err == nil {
			t.Errorf("%s: %+v", rows, q)
		}
	}
}

// However a body is made, what is shown of it is JSON, keeps to its room, and
// with following what it says all rows are seen.
func FuzzLook(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2]}`, `[[],{}]`, "a,b\n1,2", `"x"`, `{"":{"":""}}`, "\xff", `[null]`, `{"a":1}{`} {
		f.Add([]byte(seed), "/a", "0-1", "x")
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer, rows, search string) {
		q, err := newQuery(pointer, rows, search)
		if err != nil {
			return
		}
		v, err := look(body, "text/csv", q, 1000)
		if err != nil {
			return
		}
		if len(v.Body) > 0 && !json.Valid(v.Body) {
			t.Errorf("%q", v.Body)
		}
	})
}

// However many members an object has, and however large they are, what is shown of
// it has its bounds, and says that there are more.
func TestAnObjectOfAnySizeIsShownWithinItsRoom(t *testing.T) {
	for _, n := range []int{1, 100, 5000} {
		for _, size := range []int{1, 200, 5000} {
			if n*size > 4<<20 {
				continue // nothing new, and seconds of it
			}
			members := make([]string, n)
			for i := range members {
				members[i] = fmt.Sprintf(`"name-%d":%q`, i, strings.Repeat("x", size))
			}
			body := "{" + strings.Join(members, ",") + "}"
			for _, room := range []int{1000, 6000} {
				v := shown(t, body, "", "", "", "", room) // judges what it costs
				if whole := string(v.Body) == body; whole != (v.LeftOut == "") {
					t.Errorf("%d members of %d bytes: shown as a whole: %t, left out: %q", n, size, whole, v.LeftOut)
				}
				if n == 5000 && !strings.Contains(string(v.Body), "more members are not named") {
					t.Errorf("%d members of %d bytes: nothing says that there are more", n, size)
				}
			}
		}
	}
}
