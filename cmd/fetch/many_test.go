package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers"

	"github.com/nats-io/nats.go/micro"
)

// tells has the rig's worker tell what it can be asked for.
func (r *rig) tells() {
	r.t.Helper()
	set, err := providers.Load(func(name string) string { return map[string]string{"FMP_API_KEY": "k"}[name] })
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(set.Close)
	service, err := micro.AddService(r.b.NC, micro.Config{Name: "fetchworker", Version: "0.0.0"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = service.Stop() })
	err = service.AddEndpoint("catalog", micro.HandlerFunc(func(q micro.Request) {
		name := strings.TrimPrefix(q.Subject(), "fetch.catalog.")
		if told, ok := set.Tell(name); ok {
			_ = q.RespondJSON(told)
		} else if name == "*" {
			_ = q.RespondJSON(map[string][]string{"providers": {"fmp", "fred", "newsapi", "polygon"}})
		} else {
			_ = q.Error("404", "no such provider", nil)
		}
	}), micro.WithEndpointSubject("fetch.catalog.*"))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.b.NC.Flush(); err != nil {
		r.t.Fatal(err)
	}
}

func TestWhatWasProbablyMeant(t *testing.T) {
	r := newRig(t, func(r fetchworker.Request) fetchworker.Answer {
		code := fetchworker.CodeUnknownProvider
		if r.Provider == "fmp" {
			code = fetchworker.CodeInvalidRequest
		}
		p := fetchworker.Failure(r.Identity(), code, "")
		return fetchworker.Answer{Status: fetchworker.StatusFailed, Final: true, Problem: &p}
	})
	r.tells()
	for args, want := range map[string]string{
		"fpm quote symbol=AAPL":    "did you mean fmp? the providers are fmp, fred, newsapi, polygon",
		"FMP quote symbol=AAPL":    "did you mean fmp?",
		"fmp qoute symbol=AAPL":    "did you mean quote? it has quote,",
		"fmp quote AAPL":           "did you mean symbol=AAPL?",
		"fmp quote simbol=AAPL":    "simbol is no parameter of quote: did you mean symbol? it takes symbol",
		"ops fmp quotes":           "did you mean quote?",
		"ops fpm":                  "did you mean fmp?",
		"watch FMP":                "did you mean fmp?",
		"fmp quote ticker=AAPL -h": "fetch fmp quote symbol=…",
	} {
		stdout, stderr, err := r.run(strings.Fields(args)...)
		if !strings.Contains(fmt.Sprint(stdout, stderr, err), want) {
			t.Errorf("%s: %q %q %v", args, stdout, stderr, err)
		}
	}
	for args, want := range map[string]string{
		"ops":                    "fred  (no key here): ",
		"ops fmp quote":          "fetch fmp quote symbol=…\n    symbol ",
		"ops fmp --json":         `"operations":[{"name":`,
		"fmp --help":             "fetch fmp quote symbol=…",
		"__complete f":           "fmp\n",
		"__complete fmp qu":      "quote\n",
		"__complete fmp quote s": "symbol=\n",
		"version":                "fetchworker fetch dev go1.",
		"--version":              "fetchworker fetch dev go1.",
	} {
		stdout, stderr, err := r.run(strings.Fields(args)...)
		if err != nil || !strings.Contains(stdout, want) {
			t.Errorf("%s: %q %q %v", args, stdout, stderr, err)
		}
	}
}

// symbols writes a CSV of n symbols.
func symbols(t *testing.T, n int) string {
	t.Helper()
	text := "symbol\n"
	for i := range n {
		text += fmt.Sprint("S", i, "\n")
	}
	name := filepath.Join(t.TempDir(), "symbols.csv")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestManyAreAskedAndNoneTwice(t *testing.T) {
	r := newRig(t, okAnswer)
	from, out := symbols(t, 200), filepath.Join(t.TempDir(), "answers.ndjson")
	// Stopped somewhere on the way.
	ctx, cancel := context.WithCancel(t.Context())
	r.says(func(q fetchworker.Request) fetchworker.Answer {
		if len(r.questions()) > 60 {
			cancel()
			time.Sleep(time.Millisecond)
		}
		return okAnswer(q)
	})
	var discard strings.Builder
	env := func(name string) string { return map[string]string{"NATS_URL": r.b.Server.URL()}[name] }
	if err := run(ctx, []string{"fmp", "quote", "--from", from, "--out", out, "--parallel", "20"}, env, &discard, &discard); exitCode(err) != 3 {
		t.Fatalf("interrupted: %v\n%s", err, discard.String())
	}
	half, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	answered := strings.Count(string(half), "\n") - 1
	if answered < 10 || answered >= 200 {
		t.Fatalf("%d answers", answered)
	}
	// A crash cuts the last line.
	if err := os.WriteFile(out, append(half, `{"line":17,"id`...), 0o600); err != nil {
		t.Fatal(err)
	}
	r.says(okAnswer)
	_, stderr, err := r.run("fmp", "quote", "--from", from, "--out", out)
	if err != nil || !strings.Contains(stderr, fmt.Sprintf("%d answered before", answered)) {
		t.Fatalf("%v\n%s", err, stderr)
	}
	whole, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(whole)), "\n")
	if len(lines) != 201 || !strings.HasPrefix(string(whole), string(half)) {
		t.Errorf("%d lines", len(lines))
	}
	asked := map[string]int{}
	for _, q := range r.questions() {
		asked[q.ID]++
		if q.Lane != fetchworker.LaneBatch {
			t.Errorf("lane %s", q.Lane)
		}
	}
	for id, n := range asked {
		if n > 1 {
			t.Errorf("%s was asked %d times", id, n)
		}
	}
	if len(asked) != 200 {
		t.Errorf("%d ids", len(asked))
	}
	// Another file of symbols is told, not mixed in.
	if err := os.WriteFile(from, []byte("symbol\nOTHER\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.run("fmp", "quote", "--from", from, "--out", out); exitCode(err) != 2 {
		t.Errorf("another file: %v", err)
	}
}

func TestLinesOfAllKinds(t *testing.T) {
	r := newRig(t, func(q fetchworker.Request) fetchworker.Answer {
		if strings.Contains(string(q.Params), "NOPE") {
			p := fetchworker.Failure(q.Identity(), fetchworker.CodeNotFound, "")
			return fetchworker.Answer{Status: fetchworker.StatusFailed, Final: true, Problem: &p}
		}
		return okAnswer(q)
	})
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "in")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	stdout, stderr, err := r.run("fmp", "quote", "--parallel", "1", "--from", file("\n"+`{"symbol":"A"}`+"\n\n"+`{"id":"mine","params":{"symbol":"NOPE"},"max_age":"0s"}`))
	if exitCode(err) != 1 || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, `"id":"mine"`) || !strings.Contains(stderr, "1 ok, 0 stale, 1 failed") {
		t.Errorf("%q %q %v", stdout, stderr, err)
	}
	last := r.questions()[len(r.questions())-1]
	if last.ID != "mine" || last.MaxAge == nil {
		t.Errorf("%+v", last)
	}
	for name, text := range map[string]string{
		"no JSON": "{\"symbol\":\"A\"}\nnonsense\n", "a field unknown": `{"params":{},"nope":1}`,
		"a row too long": "symbol\nA,B\n",
	} {
		if _, stderr, err := r.run("fmp", "quote", "--from", file(text)); exitCode(err) != 2 || !strings.Contains(err.Error(), "line") {
			t.Errorf("%s: %q %v", name, stderr, err)
		}
	}
	if _, _, err := r.run("fmp", "quote", "--from", file("")); err != nil {
		t.Errorf("nothing to ask: %v", err)
	}
	if _, _, err := r.run("fmp", "quote", "--from", "/nowhere"); exitCode(err) != 2 {
		t.Errorf("no file: %v", err)
	}
}

func TestResultAndWatch(t *testing.T) {
	r := newRig(t, okAnswer)
	ctx, cancel := context.WithCancel(t.Context())
	watching := make(chan string, 1)
	go func() {
		var out, errs strings.Builder
		env := func(name string) string { return map[string]string{"NATS_URL": r.b.Server.URL()}[name] }
		_ = run(ctx, []string{"watch", "fmp"}, env, &out, &errs)
		watching <- out.String()
	}()
	for ids := []string{}; len(ids) < 3; { // the watch may begin after the first
		id := fmt.Sprint("q-", len(ids))
		if _, _, err := r.run("fmp", "quote", "symbol=AAPL", "--id", id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, args := range [][]string{{"result", "q-2"}, {"result", "fmp", "quote", "q-2"}, {"result", "q-2", "--wait"}} {
		if stdout, _, err := r.run(args...); err != nil || stdout != `[{"price": 191.31}]`+"\n" {
			t.Errorf("%v: %q, %v", args, stdout, err)
		}
	}
	if _, _, err := r.run("result", "never"); exitCode(err) != 3 {
		t.Errorf("never asked: %v", err)
	}
	if _, _, err := r.run("result", "*"); exitCode(err) != 2 {
		t.Errorf("a pattern: %v", err)
	}
	cancel()
	if seen := <-watching; !slices.ContainsFunc([]string{"q-0", "q-1", "q-2"}, func(id string) bool { return strings.Contains(seen, id) }) {
		t.Errorf("watched %q", seen)
	}
}
