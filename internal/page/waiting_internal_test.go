package page

import (
	"bytes"
	"html/template"
	"strings"
	"testing"
)

// What nobody has looked at yet is told as that, and never as nothing.
func TestQueuesThatNobodyHasLookedAtAreNotEmpty(t *testing.T) {
	views, err := template.New("").Funcs((&Server{}).words()).ParseFS(assets, "assets/*.html")
	if err != nil {
		t.Fatal(err)
	}
	for known, want := range map[bool]string{false: "The queues are being counted", true: "Nothing waits in the queues"} {
		var body bytes.Buffer
		v := view{Name: "waiting", Data: waitingView{Known: known, Letters: list{Of: "letters"}}}
		if err := views.ExecuteTemplate(&body, "waiting", shown{view: v}); err != nil {
			t.Fatal(err)
		}
		if text := body.String(); !strings.Contains(text, want) || strings.Contains(text, `class="count"`) != known {
			t.Errorf("%v: %s", known, text)
		}
	}
}
