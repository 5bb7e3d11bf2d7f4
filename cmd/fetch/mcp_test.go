package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A client starts fetch mcp, speaks to it over its pipes, and ends it by
// closing them.
func TestAModelSpeaksOverPipes(t *testing.T) {
	r := newRig(t, okAnswer)
	ours, theirs := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		c := &cli{address: address{getenv: func(string) string { return "" }, server: r.b.Server.URL(), agent: "alice"}, out: out, errs: io.Discard}
		done <- c.mcp(t.Context(), ours)
		_ = out.Close()
	}()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.IOTransport{Reader: answers, Writer: theirs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, err := session.ListTools(t.Context(), nil)
	if err != nil || len(list.Tools) != 5 {
		t.Fatalf("%+v %v", list, err)
	}
	res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "fetch", Arguments: map[string]any{"provider": "fmp", "operation": "quote", "params": map[string]any{"symbol": "AAPL"}}})
	if err != nil || res.IsError {
		t.Fatalf("%+v %v", res, err)
	}
	var told struct {
		Handle struct {
			ID string `json:"id"`
		} `json:"handle"`
		Body []struct {
			Price float64 `json:"price"`
		} `json:"body"`
	}
	text, err := json.Marshal(res.StructuredContent)
	if err != nil || json.Unmarshal(text, &told) != nil || len(told.Body) != 1 || told.Body[0].Price != 191.31 {
		t.Errorf("%s %v", text, err)
	}
	res, err = session.CallTool(t.Context(), &mcp.CallToolParams{Name: "read_answer", Arguments: map[string]any{"provider": "fmp", "operation": "quote", "id": told.Handle.ID}})
	if err != nil || res.IsError {
		t.Errorf("%+v %v", res, err)
	}
	if q := r.questions(); len(q) != 1 || q[0].Agent != "alice" {
		t.Errorf("%+v", q)
	}
	_ = session.Close()
	_ = theirs.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, _, err := r.runAt("nats://127.0.0.1:1", "mcp"); exitCode(err) != 4 || !strings.Contains(err.Error(), "NATS_URL") {
		t.Errorf("no server: %v", err)
	}
}
