package nats_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"fetchworker"
)

// TestNodeAsAlice runs the example for Node against the shipped accounts:
// make interop.
func TestNodeAsAlice(t *testing.T) {
	if os.Getenv("FETCH_INTEROP") == "" {
		t.Skip("make interop runs the clients of other languages")
	}
	development(t)
	s := start(t, options(t, "server.conf"))
	applied(t, s, 1)
	serve(t, s, play(t))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	bob, err := fetchworker.NewClient(user(t, s, "bob"), "bob")
	if err != nil {
		t.Fatal(err)
	}
	a, err := bob.Fetch(ctx, fetchworker.Request{Provider: "fred", Operation: "series", ID: "b-1", Params: params(`{"series_id":"GDP"}`)})
	if err != nil || a.Err() != nil {
		t.Fatalf("%+v %v", a, err)
	}
	cmd := exec.CommandContext(ctx, "node", "../examples/node/alice.mjs", fetchworker.ResultSubject(a.Identity))
	cmd.Env = append(os.Environ(), "NATS_URL="+s.Addr().String())
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Status    string   `json:"status"`
		Stored    bool     `json:"stored"`
		Bobs      bool     `json:"bobs"`
		Seen      []string `json:"seen"`
		Cancelled struct {
			Cancelled int `json:"cancelled"`
			Final     int `json:"final"`
		} `json:"cancelled"`
	}
	if err := json.Unmarshal(out, &got); err != nil || got.Status != "ok" || !got.Stored || got.Bobs || len(got.Seen) != 0 || got.Cancelled.Final != 1 {
		t.Errorf("%s %v", out, err)
	}
}
