package fetch_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// TestOneLineForEachTurn holds the log to what is looked for in it: every turn
// of a request is one line, no key twice, and all that finds it again.
func TestOneLineForEachTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.upstream.Fallback = respond(200, aapl)
		r.upstream.Script(providertest.JSON(401, `{"Error Message":"bad key"}`))
		defer r.start(nil)()
		m := newMsg("fetch.request.fmp.interactive.quote.alice", `{"id":"q-1","params":{"symbol":"MSFT"}}`)
		m.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if _, err := r.b.JS.PublishMsg(t.Context(), m); err != nil { // a letter, and an answer that says why
			t.Fatal(err)
		}
		r.drained(wire.StreamDLQ, 1, time.Minute)
		r.final(r.quote("alice", "q-2", "AAPL", ""), time.Minute)
		r.quote("alice", "q-3", "", "")
		r.drained(fetchworker.StreamRequests, 0, time.Minute)

		turns := map[string]map[string]any{}
		snake := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
		for line := range strings.Lines(r.logs.String()) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if fields["msg"] != "request" {
				continue
			}
			id, _ := fields["request_id"].(string)
			if turns[id] != nil {
				t.Errorf("%s has two lines", id)
			}
			turns[id] = fields
			for key := range fields {
				if !snake.MatchString(key) || strings.Count(line, `"`+key+`":`) != 1 {
					t.Errorf("key %q in %s", key, line)
				}
			}
			for _, key := range []string{"provider", "operation", "agent", "lane", "generation", "since_publish", "status", "final", "calls", "failures"} {
				if _, there := fields[key]; !there {
					t.Errorf("no %s in %s", key, line)
				}
			}
		}
		if len(turns) != 3 {
			t.Fatalf("%d turns are logged: %s", len(turns), r.logs)
		}
		if f := turns["q-1"]; f["status"] != "waiting" || f["class"] != "unauthorized" || f["trace_id"] != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%v", f)
		}
		if f := turns["q-2"]; f["status"] != "ok" || f["http_status"] != 200.0 || f["final"] != true || f["source"] != "origin" {
			t.Errorf("%v", f)
		}
		if f := turns["q-3"]; f["problem"] != "urn:fetch:error:invalid_request" {
			t.Errorf("%v", f)
		}
	})
}
