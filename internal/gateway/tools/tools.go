// Package tools answers language models: five tools of the model context
// protocol (MCP), whatever number of providers there are. Nothing is cut
// silently: what is left out of a result is told, with how to read on.
package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fetchworker"
	"fetchworker/internal/gateway/catalogue"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Asking is whose tools they are: a client of the agent that a call is from,
// which is left when the call has ended.
type Asking func(*mcp.CallToolRequest) (client *fetchworker.Client, leave func(), err error)

// tools are what a server offers.
type tools struct {
	catalogue *catalogue.Catalogue
	asking    Asking
	reading   chan struct{} // who holds a large body
}

// readers hold a large body at the same time.
const readers = 4

// instructions are for the model, once.
const instructions = "Data APIs behind shared rate limits. search_operations finds what can be asked, describe_operation tells its parameters, " +
	"fetch asks and gives one answer under a handle (provider, operation, id). If it waits, the reason and retry_at say why and until when: " +
	"do something else and call read_answer with the handle then; do not fetch again. Large answers are shown in part: left_out says how read_answer shows the rest, at no cost."

// NewServer makes a server of the five tools.
func NewServer(version string, c *catalogue.Catalogue, asking Asking) *mcp.Server {
	t := &tools{catalogue: c, asking: asking, reading: make(chan struct{}, readers)}
	s := mcp.NewServer(&mcp.Implementation{Name: "fetchworker", Title: "fetchworker", Version: version}, &mcp.ServerOptions{
		Instructions: instructions,
		Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}}, // the list never changes
	})
	add(s, "search_operations", false, "Find what can be asked, by words of its name, path or parameters. Without a query: the providers and their operations.",
		`{"query":{"type":"string"},"provider":{"type":"string"},"limit":{"type":"integer","description":"results, 10 if left out"}}`, nil, t.search)
	add(s, "describe_operation", false, "Tell one operation's parameters as a JSON Schema, how fresh its answers are, and whether it can be asked now.",
		`{"provider":{"type":"string"},"operation":{"type":"string"}}`, []string{"provider", "operation"}, t.describe)
	add(s, "fetch", true, "Ask for one thing. The answer has a handle (provider, operation, id). status: ok; stale (old, see age_seconds); failed (problem); waiting (see waiting; it goes on by itself, read_answer later).",
		`{"provider":{"type":"string"},"operation":{"type":"string"},"params":{"type":"object"},`+
			`"id":{"type":"string","description":"asked again under it, the same answer comes back"},`+
			`"wait":{"type":"integer","description":"seconds, 20 if left out, at most 50"},`+
			`"max_age":{"type":"string","description":"take a cached answer this young, such as 30s; 0s: none"},`+
			`"max_stale":{"type":"string","description":"take a stale one this old when the provider is down, such as 24h"},`+
			`"use":{"type":"array","items":{"type":"string"},"description":"what the data is for, such as export"},`+maxTokens+`}`,
		[]string{"provider", "operation"}, t.fetch)
	add(s, "read_answer", false, "Read a stored answer, or a part of it: calls no provider.",
		`{"provider":{"type":"string"},"operation":{"type":"string"},"id":{"type":"string"},`+
			`"pointer":{"type":"string","description":"JSON Pointer into the body, such as /historical"},`+
			`"rows":{"type":"string","description":"elements of an array or lines of a text, such as 500-520"},`+
			`"search":{"type":"string","description":"only rows or values with this text in them"},`+
			`"wait":{"type":"integer","description":"seconds to wait for a final answer, at most 50"},`+maxTokens+`}`,
		[]string{"provider", "operation", "id"}, t.read)
	add(s, "limits", false, "Calls and bytes left, when the next call may be made, and what holds a provider's requests until when.",
		`{"provider":{"type":"string"}}`, nil, t.limits)
	return s
}

//nolint:gosec // of a text, not of access
const maxTokens = `"max_tokens":{"type":"integer","description":"of the result, 8000 if left out"}`

// add adds a tool. All of them only read; one reaches out into the world.
func add[In any](s *mcp.Server, name string, open bool, description, properties string, required []string, do func(context.Context, *mcp.CallToolRequest, In) (any, error)) {
	schema, err := json.Marshal(struct {
		Type       string          `json:"type"`
		Properties json.RawMessage `json:"properties"`
		Required   []string        `json:"required,omitempty"`
	}{"object", json.RawMessage(properties), required})
	if err != nil {
		panic(err) // it is written above
	}
	tool := &mcp.Tool{
		Name: name, Description: description, InputSchema: json.RawMessage(schema),
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true, IdempotentHint: true, OpenWorldHint: &open},
	}
	s.AddTool(tool, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		var in In
		if err := decode(r.Params.Arguments, &in, required); err != nil {
			return wrong(err), nil // the model is told, and can mend it
		}
		out, err := do(ctx, r, in)
		if err != nil {
			return wrong(err), nil // as above
		}
		return result(out, false), nil
	})
}

// decode reads arguments as models send them: null where something is left out,
// numbers as texts, an object as the text of one. An argument that there is not
// is a mistake.
func decode(raw json.RawMessage, into any, required []string) error {
	var given map[string]json.RawMessage
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &given); err != nil {
			return errors.New("the arguments are a JSON object")
		}
	}
	for name, value := range given {
		if string(value) == "null" {
			delete(given, name)
		}
	}
	for _, name := range required {
		if given[name] == nil {
			return fmt.Errorf("%s is needed", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) { // one by one, so that a mistake is told by its name
		text, err := json.Marshal(map[string]json.RawMessage{name: given[name]})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			return mistaken(name, given[name], into, err)
		}
	}
	return nil
}

// mistaken is what a decoder says of an argument, in words of the tool: its own
// are those of the program's code.
func mistaken(name string, value json.RawMessage, into any, err error) error {
	shown := string(value)
	if len(shown) > 41 {
		shown = strings.ToValidUTF8(shown[:40], "") + "…"
	}
	var other *json.UnmarshalTypeError
	switch {
	case errors.Is(err, errNotWhole):
		return fmt.Errorf("%s: %s is no whole number", name, shown)
	case errors.As(err, &other) && json.Unmarshal(fmt.Appendf(nil, `{%q:[]}`, name), into) == nil: // a list would do
		return fmt.Errorf("%s: %s is no list of texts", name, shown)
	case errors.As(err, &other):
		return fmt.Errorf("%s: %s is no text", name, shown)
	default:
		return fmt.Errorf("there is no argument %.60q", name)
	}
}

// whole is an integer, also one that was written as a text.
type whole int

var errNotWhole = errors.New("no whole number")

// UnmarshalJSON implements json.Unmarshaler.
func (w *whole) UnmarshalJSON(b []byte) error {
	var n float64
	if err := json.Unmarshal(bytes.Trim(b, `"`), &n); err != nil || n != float64(int(n)) {
		return errNotWhole
	}
	*w = whole(n)
	return nil
}

// result is a value as text and as structure: of clients some hand the one to
// the model and some the other.
func result(v any, failed bool) *mcp.CallToolResult {
	text, err := json.Marshal(v)
	if err != nil { // every value is plain
		return wrong(fmt.Errorf("the result cannot be written: %w", err))
	}
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: string(text)}}, StructuredContent: json.RawMessage(text), IsError: failed}
}

// wrong is a result that says what is wrong.
func wrong(err error) *mcp.CallToolResult {
	var said refusedError
	if errors.As(err, &said) {
		return result(said.value, true)
	}
	return result(map[string]string{"error": explained(err)}, true)
}

// refusedError is an error that has more to say than a text.
type refusedError struct{ value any }

func (refusedError) Error() string { return "refused" }

// explained is an error of the client in words for a model.
func explained(err error) string {
	switch {
	case errors.Is(err, fetchworker.ErrNoAnswer):
		return "nothing is stored under this handle: never asked, not answered yet, or older than answers are kept"
	case errors.Is(err, fetchworker.ErrIDReused):
		return "the id was used before for other parameters: leave it out, or take another"
	case errors.Is(err, fetchworker.ErrQueueFull):
		return "too many requests are waiting already: nothing was asked, ask again later"
	case errors.Is(err, fetchworker.ErrNotPermitted):
		return "the server does not permit this agent to do that"
	case errors.Is(err, fetchworker.ErrBodyCorrupt):
		return "the stored body is not what its answer promises: fetch it again under another id"
	case errors.Is(err, fetchworker.ErrNobodyServes):
		return "no worker answers just now"
	}
	var invalid *fetchworker.RequestError
	if errors.As(err, &invalid) {
		return invalid.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, fetchworker.ErrClosed) {
		return "the service cannot be reached just now"
	}
	return err.Error()
}

const (
	// bytesAToken is the rule of thumb by which results are bounded.
	bytesAToken = 4
	// standardTokens is what a result may cost if nothing is said, mostTokens
	// what may be said, and fewestTokens the least that makes sense.
	standardTokens = 8_000
	mostTokens     = 40_000
	fewestTokens   = 500
	// around is what a result has around what it shows, bytes, all told twice.
	around = 3_000
)

// room is how many bytes of a body a result may show, once: it is there as text
// and as structure.
func room(tokens whole) int {
	if tokens == 0 {
		tokens = standardTokens
	}
	tokens = min(max(tokens, fewestTokens), mostTokens)
	return max(int(tokens)*bytesAToken-around, 600)
}

// cost is what JSON takes in a result: once as it is, and once as a text, in
// which quotes are escaped.
func cost(text []byte) int {
	n := 2 * len(text)
	for _, c := range text {
		if c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			n++
		}
	}
	return n
}
