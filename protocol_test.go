package fetchworker_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fetchworker"
	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// protocolFiles are what an agent needs, and what subscribers and operators do.
var protocolFiles = []string{"docs/protocol.md", "docs/messages.md"}

// example is a fenced block of the protocol: a message with its subject and
// headers, or a problem alone.
type example struct {
	kind string // request, refused, answer, letter, problem, event, audit, sh, js
	file string
	line int
	text string
	*nats.Msg
}

func (e example) String() string { return fmt.Sprintf("%s:%d (%s)", e.file, e.line, e.kind) }

func protocolExamples(t *testing.T) (text string, examples []example) {
	t.Helper()
	for _, file := range protocolFiles {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text += string(content)
		var open *example
		for i, line := range strings.Split(string(content), "\n") {
			fence, kind := strings.CutPrefix(line, "```")
			switch {
			case open != nil && line == "```":
				open.Msg = messageOf(open.text)
				examples = append(examples, *open)
				open = nil
			case open != nil:
				open.text += line + "\n"
			case kind:
				open = &example{kind: fence, file: file, line: i + 1}
			}
		}
	}
	if len(examples) == 0 {
		t.Fatal("no examples")
	}
	return text, examples
}

// messageOf reads a subject, headers and, after an empty line, a body.
func messageOf(text string) *nats.Msg {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	m := nats.NewMsg(lines[0])
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		m.Header[name] = append(m.Header[name], value)
	}
	m.Data = []byte(strings.TrimSuffix(body, "\n"))
	return m
}

func TestProtocolExamplesAreWhatIsOnTheWire(t *testing.T) {
	_, examples := protocolExamples(t)
	checks := map[string]func(*testing.T, example){
		"request": checkRequest, "refused": checkRefused, "answer": checkAnswer, "problem": checkProblem,
		"letter": checkLetter, "event": checkEvent, "audit": checkAudit,
		"sh": func(*testing.T, example) {}, "js": func(*testing.T, example) {}, // run where Node is
	}
	for _, e := range examples {
		check, known := checks[e.kind]
		if !known {
			t.Errorf("%s: no check for this kind of block", e)
			continue
		}
		t.Run(fmt.Sprintf("%s at %s:%d", e.kind, e.file, e.line), func(t *testing.T) { check(t, e) })
	}
}

// requestOf reads a request's example as a worker does.
func requestOf(e example) (fetchworker.Request, error) {
	r, err := fetchworker.DecodeRequest(e.Data)
	tokens := strings.Split(e.Subject, ".")
	if len(tokens) != 6 || tokens[0] != "fetch" || tokens[1] != "request" {
		return r, fmt.Errorf("subject %s", e.Subject)
	}
	r.Provider, r.Lane, r.Operation, r.Agent = tokens[2], fetchworker.Lane(tokens[3]), tokens[4], tokens[5]
	if err == nil {
		err = r.Check()
	}
	return r, err
}

func checkRequest(t *testing.T, e example) {
	t.Helper()
	r, err := requestOf(e)
	if err != nil {
		t.Fatal(err)
	}
	if subject := fetchworker.RequestSubject(r.Provider, r.Lane, r.Operation, r.Agent); subject != e.Subject {
		t.Errorf("subject %s, want %s", e.Subject, subject)
	}
	if id := e.Header.Get(nats.MsgIdHdr); id != "" && id != r.Identity().String() {
		t.Errorf("Nats-Msg-Id %s, want %s", id, r.Identity())
	}
}

func checkRefused(t *testing.T, e example) {
	t.Helper()
	if _, err := requestOf(e); err == nil {
		t.Error("this is accepted")
	}
}

// checkAnswer reads an answer and writes it again: all headers of the
// example, and no others, with the same values.
func checkAnswer(t *testing.T, e example) {
	t.Helper()
	a, err := fetchworker.DecodeAnswer(e.Subject, e.Header, e.Data)
	if err != nil {
		t.Fatal(err)
	}
	if a.Problem != nil {
		problem(t, e.Data)
	}
	same(t, a.Encode(), e)
	if a.Rank() == 1 != (a.Status == fetchworker.StatusWaiting) || a.Final && a.Status == fetchworker.StatusWaiting {
		t.Errorf("status %s, final %v", a.Status, a.Final)
	}
	if c := a.Claim; c != nil && int64(c.Parts) != (c.Bytes+fetchworker.MaxInlineBody-1)/fetchworker.MaxInlineBody {
		t.Errorf("%d bytes in %d parts", c.Bytes, c.Parts)
	}
}

func checkProblem(t *testing.T, e example) {
	t.Helper()
	problem(t, []byte(e.text))
}

// problem reads a problem and makes it again from its code.
func problem(t *testing.T, body []byte) {
	t.Helper()
	var p fetchworker.Problem
	strict(t, body, &p)
	id := fetchworker.Identity{Provider: p.Provider, Operation: p.Operation, ID: p.Instance}
	want := fetchworker.Waiting(id, p.Reason(), p.Detail, p.RetryAt)
	if p.Code() != "" {
		want = fetchworker.Failure(id, p.Code(), p.Detail)
		want.RetryAt = p.RetryAt
	}
	if p != want || p.Title == "" {
		t.Errorf("%+v, want %+v", p, want)
	}
}

// checkLetter reads a dead letter, a replayed one or a review item, and
// writes it again.
func checkLetter(t *testing.T, e example) {
	t.Helper()
	l, err := dlq.Decode(e.Subject, e.Header, e.Data)
	if err != nil {
		t.Fatal(err)
	}
	write := map[string]func() *nats.Msg{"dlq": l.DeadLetter, "replay": l.Replayed, "review": l.ReviewItem}[strings.Split(e.Subject, ".")[1]]
	if write == nil {
		t.Fatalf("subject %s", e.Subject)
	}
	same(t, write(), e)
	if _, err := fetchworker.DecodeRequest(l.Body); err != nil {
		t.Errorf("its request: %v", err)
	}
}

func checkEvent(t *testing.T, e example) {
	t.Helper()
	var envelope struct {
		SpecVersion     string          `json:"specversion"`
		ID              string          `json:"id"`
		Source          string          `json:"source"`
		Type            string          `json:"type"`
		Time            string          `json:"time"`
		Subject         string          `json:"subject"`
		DataContentType string          `json:"datacontenttype"`
		Data            json.RawMessage `json:"data"`
	}
	strict(t, e.Data, &envelope)
	tokens := strings.Split(e.Subject, ".")
	if len(tokens) != 4 || e.Subject != wire.EventSubject(tokens[2], tokens[3]) || envelope.Type != "fetch.event."+tokens[2] ||
		envelope.Source != "/fetch/"+tokens[3] || !strings.HasPrefix(envelope.ID, tokens[2]+"."+tokens[3]+".") || e.Header.Get(nats.MsgIdHdr) != envelope.ID {
		t.Errorf("subject %s and %+v do not belong together", e.Subject, envelope)
	}
	if tokens[2] == "review" {
		return // told by the replayer, in its own words
	}
	var data budget.Event
	strict(t, envelope.Data, &data)
	if data.Kind != tokens[2] || data.Provider != tokens[3] {
		t.Errorf("data %+v", data)
	}
}

func checkAudit(t *testing.T, e example) {
	t.Helper()
	var act operate.Act
	strict(t, e.Data, &act)
	if want := wire.AuditSubject(act.Action, act.Provider); e.Subject != want {
		t.Errorf("subject %s, want %s", e.Subject, want)
	}
}

// same compares a message with its example: subject, all headers, and the
// body, as JSON where it is JSON.
func same(t *testing.T, m *nats.Msg, e example) {
	t.Helper()
	subject := strings.Replace(m.Subject, "fetch.put.", "fetch.result.", 1) // what the stream stores it as
	if subject != e.Subject {
		t.Errorf("subject %s, want %s", e.Subject, subject)
	}
	names := maps.Clone(m.Header)
	maps.Copy(names, e.Header)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		got, want := e.Header.Get(name), m.Header.Get(name)
		if got != want && !sameJSON([]byte(got), []byte(want)) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if !bytes.Equal(m.Data, e.Data) && !sameJSON(m.Data, e.Data) {
		t.Errorf("body %s, want %s", e.Data, m.Data)
	}
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func strict(t *testing.T, body []byte, into any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
}

// TestProtocolLeavesNothingOut: every word of the wire is explained, and has
// its example.
func TestProtocolLeavesNothingOut(t *testing.T) {
	text, examples := protocolExamples(t)
	inExample := func(kinds []string, pattern string) bool {
		return slices.ContainsFunc(examples, func(e example) bool {
			return slices.Contains(kinds, e.kind) && regexp.MustCompile(pattern).MatchString(e.text)
		})
	}
	messages := []string{"request", "answer", "letter", "event"}
	for _, c := range constants(t, "words.go") {
		word := regexp.QuoteMeta(c.value)
		var shown bool
		switch c.kind {
		case "Code":
			shown = inExample([]string{"problem"}, `"urn:fetch:error:`+word+`"`)
		case "Reason":
			shown = inExample([]string{"problem"}, `"urn:fetch:waiting:`+word+`"`)
		case "Status":
			shown = inExample([]string{"answer"}, "(?m)^Fetch-Status: "+word+"$")
		case "Source":
			shown = inExample([]string{"answer"}, "(?m)^Fetch-Source: "+word+"$")
		case "Lane":
			shown = inExample([]string{"request"}, `^fetch\.request\.[a-z]+\.`+word+`\.`)
		case "Class":
			shown = c.value == "ok" || strings.Contains(text, "| `"+c.value+"` |")
		default:
			t.Errorf("%s has the type %q, which this test does not know", c.value, c.kind)
		}
		if !shown {
			t.Errorf("%s %q has no example in %v", c.kind, c.value, protocolFiles)
		}
	}
	for _, c := range constants(t, "headers.go") {
		if c.value == fetchworker.ProblemType {
			continue
		}
		if !strings.Contains(text, "`"+c.value+"`") {
			t.Errorf("header %s is not explained", c.value)
		}
		if !inExample(messages, "(?m)^"+regexp.QuoteMeta(c.value)+": ") {
			t.Errorf("header %s has no example", c.value)
		}
	}
	for _, c := range constants(t, "subjects.go") {
		if !strings.Contains(text, "`"+c.value+"`") {
			t.Errorf("%s is not explained", c.value)
		}
	}
}

type constant struct{ kind, value string }

// constants are the text constants of one of our files, with their types.
func constants(t *testing.T, file string) []constant {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []constant
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		value, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		kind := ""
		if name, ok := spec.Type.(*ast.Ident); ok {
			kind = name.Name
		}
		found = append(found, constant{kind, value})
		return true
	})
	if len(found) == 0 {
		t.Fatalf("no constants in %s", file)
	}
	return found
}
