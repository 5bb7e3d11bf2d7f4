package e2e

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"

	"github.com/nats-io/nats.go"
)

// leftOut are the command lines of the documents that are not run here, each
// with the reason, and with who sees to it.
var leftOut = []struct{ line, why string }{
	{`^go run \./cmd/worker demo`, "twenty seconds; cmd/worker's demo_test runs it"},
	{`^FMP_API_KEY=\.\.\. go run \./cmd/worker$`, "it is the worker that runs here"},
	{`^(cd deploy/test && )?go (test|build|install)\b`, "it is what is running; that its packages and tests are there is looked at below"},
	{`^make `, "as long as CI, or longer; that its targets are there is looked at by the test beside this one"},
	{`^git clone `, "it has a place to fill in"},
	{`^go mod `, "it fetches modules: with FETCH_CHAOS=full"},
	{`^claude `, "a program of somebody else's; cmd/fetch's and the gateway's tests speak MCP"},
	{`^npx `, "a program of somebody else's; internal/gateway validates openapi.json"},
	{`^nats .*--password …`, "it has a password to fill in; ADR 74 says what worker move does instead"},
	{`^nats kv del `, "it is part of a restore, which makes limits begin anew"},
	{`^worker move `, "TestEverythingMoves runs it, with servers of its own"},
	{`\.tides\.example\.com|tides heights`, "they call an API that is nowhere; internal/providers runs the sheet"},
	{`^(install|systemctl) `, "it needs root; deploy/test looks whether the units fit together"},
	{`^replayer `, "the runbook's are run by cmd/replayer, word for word"},
}

// TestTheCommandsOfTheDocumentsWork runs the command lines of the documents, as
// they stand there, beside a worker: those in blocks, and whole ones in the text.
// Only addresses are others, since several of these run on one machine.
func TestTheCommandsOfTheDocumentsWork(t *testing.T) {
	begin(t)
	d := newReader(t)
	used := map[string]bool{}
	for _, file := range []string{
		"README.md", "CONTRIBUTING.md", "docs/gateway.md", "docs/protocol.md", "docs/mcp.md", "docs/catalogue.md", "docs/operations.md",
		"docs/page.md", "docs/performance.md", "docs/permits.md", "docs/replayer.md", "docs/runbook.md", "docs/scaling.md",
		"deploy/systemd/README.md", "examples/natscli.md",
	} {
		text, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		d.opens(string(text))
		for _, line := range wholeLines(string(text)) {
			if i := slices.IndexFunc(leftOut, func(l struct{ line, why string }) bool { return regexp.MustCompile(l.line).MatchString(line) }); i >= 0 {
				used[leftOut[i].line] = true
				d.looksAt(file, line)
				continue
			}
			d.runs(file, line)
		}
		d.closes(file)
	}
	for _, l := range leftOut {
		if !used[l.line] {
			t.Errorf("nothing is left out by %s", l.line)
		}
	}
	const some = 20
	if len(d.ran) < some {
		t.Errorf("only %d commands are run: %q", len(d.ran), d.ran)
	}
	if full {
		d.usesTheModule()
	}
	t.Logf("%d commands are run:\n%s", len(d.ran), strings.Join(d.ran, "\n"))
}

// reader is somebody who types what the documents say.
type reader struct {
	*lone
	t       *testing.T
	folder  string
	env     map[string]string
	address *strings.Replacer
	ran     []string

	serving *process // of the document that is read
	token   string
	heard   map[string]*nats.Subscription
}

func newReader(t *testing.T) *reader {
	t.Helper()
	a := alone(t)
	maps.Copy(a.env, map[string]string{
		"FETCH_GATEWAY": "on", "FETCH_GATEWAY_ADDR": "127.0.0.1:0", "FETCH_PAGE_ADDR": "off",
		"POLYGON_API_KEY": aKey, "POLYGON_BASE_URL": a.upstream.URL(), "POLYGON_REQUESTS_PER_MINUTE": "0",
	})
	a.upstream.Fallback = playedBoth
	a.start()
	serving := a.says(t, `"serving"`)
	url := field(t, a.says(t, `"embedded NATS"`), "url")
	d := &reader{lone: a, t: t, folder: t.TempDir(), heard: map[string]*nats.Subscription{}}
	d.env = map[string]string{"NATS_URL": url, "FETCH_HTTP_ADDR": "off", "USER": "ann"}
	d.address = strings.NewReplacer(
		"http://127.0.0.1:8081", "http://"+field(t, serving, "gateway"),
		"go run ./cmd/", "",
		"FETCH_GATEWAY_ADDR=:8081", "FETCH_GATEWAY_ADDR=127.0.0.1:"+strconv.Itoa(brokertest.FreePort(t)),
	)
	if err := os.WriteFile(filepath.Join(d.folder, "symbols.csv"), []byte("symbol\nAAPL\nMSFT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// opens begins a document: a sheet of the catalogue that it shows is a file.
func (d *reader) opens(text string) {
	if _, sheet, ok := strings.Cut(text, "```yaml\n"); ok {
		sheet, _, _ = strings.Cut(sheet, "```")
		if err := os.WriteFile(filepath.Join(d.folder, "tides.yaml"), []byte(sheet), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
}

// closes ends what a document has begun.
func (d *reader) closes(file string) {
	d.t.Helper()
	for subject, live := range d.heard {
		if strings.HasPrefix(subject, "fetch.event.") { // none need have happened
			continue
		}
		if _, err := live.NextMsg(30 * time.Second); err != nil {
			d.t.Errorf("%s: nothing is heard on %s: %v", file, subject, err)
		}
	}
	clear(d.heard)
	if d.serving != nil {
		d.serving.signal(d.t, syscall.SIGTERM)
		d.serving.ended(d.t, 30*time.Second)
		d.serving = nil
	}
}

// runs types one line.
func (d *reader) runs(file, line string) {
	d.t.Helper()
	d.ran = append(d.ran, line)
	typed := d.address.Replace(line)
	if words := split(typed); words[0] == "nats" {
		d.speaks(file, words[1:])
		return
	}
	if strings.HasSuffix(typed, " gateway") { // it serves what follows
		d.serving = d.shell(file, "exec env "+typed)
		d.address = strings.NewReplacer("http://127.0.0.1:8081", d.address.Replace("http://127.0.0.1:8081"), "go run ./cmd/", "",
			"fetch_…", d.token, "http://gateway:8081", "http://"+field(d.t, d.serving.says(d.t, `"gateway serves"`), "addr"))
		return
	}
	if _, err := exec.LookPath("curl"); err != nil && strings.HasPrefix(typed, "curl ") {
		d.t.Logf("%s: no curl is here for %s", file, line)
		return
	}
	p := d.shell(file, typed)
	if code := p.ended(d.t, time.Minute); code != 0 {
		d.t.Errorf("%s: %s: exit code %d, %s", file, line, code, p.log.tail(5))
	}
	if token := regexp.MustCompile(`fetch_[A-Za-z0-9_-]{20,}`).FindString(p.log.tail(10)); token != "" {
		d.token = token
	}
}

func (d *reader) shell(file, typed string) *process {
	env := maps.Clone(d.env)
	env["PATH"] = programs + ":" + os.Getenv("PATH")
	curl := `curl() { command curl --silent --show-error --fail --max-time 30 "$@"; }; `
	return launch(d.t, file+": "+typed, "/bin/sh", env, "-c", "cd '"+d.folder+"' && "+curl+typed)
}

// speaks does what the nats command would: that itself is not everywhere.
func (d *reader) speaks(file string, words []string) {
	d.t.Helper()
	switch words[0] {
	case "sub":
		live, err := d.nc.SubscribeSync(words[1])
		if err != nil {
			d.t.Fatal(err)
		}
		d.heard[words[1]] = live
	case "pub":
		if err := d.nc.Publish(words[1], []byte(words[2])); err != nil {
			d.t.Error(err)
		}
	case "req":
		words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "--") })
		var reply *nats.Msg
		var err error
		until(d.t, 30*time.Second, file+": "+strings.Join(words, " "), func() bool { // an answer may be on its way
			ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
			defer cancel()
			reply, err = d.nc.RequestWithContext(ctx, words[1], []byte(words[2]))
			return err == nil && reply.Header.Get("Status") == ""
		})
		if strings.Contains(string(reply.Data), `"error"`) {
			d.t.Errorf("%s: nats %v: %s", file, words, reply.Data)
		}
	default:
		d.t.Errorf("%s: nats %v is not known here", file, words)
	}
}

// looksAt sees whether what a line of go names is there: packages, and tests.
func (d *reader) looksAt(file, line string) {
	d.t.Helper()
	if !strings.HasPrefix(line, "go test") {
		return
	}
	words := split(line)
	for i, word := range words {
		path, isPath := strings.CutPrefix(word, "./")
		path = strings.TrimSuffix(path, "...")
		if _, err := os.Stat("../" + path); isPath && err != nil {
			d.t.Errorf("%s: %s: %v", file, line, err)
		}
		if word != "-run" || words[i+1] == "^$" {
			continue
		}
		var tests strings.Builder
		for _, other := range words {
			if folder, ok := strings.CutPrefix(other, "./"); ok {
				some, err := filepath.Glob("../" + strings.TrimSuffix(folder, "/...") + "/*_test.go")
				if err != nil {
					d.t.Fatal(err)
				}
				for _, name := range some {
					text, err := os.ReadFile(name)
					if err != nil {
						d.t.Fatal(err)
					}
					tests.Write(text)
				}
			}
		}
		for part := range strings.SplitSeq(words[i+1], "|") {
			anchored := strings.TrimSuffix(part, "$")
			if !strings.Contains(tests.String(), "\nfunc "+anchored) {
				d.t.Errorf("%s: %s: no test is called %s", file, line, part)
			}
		}
	}
}

// usesTheModule makes a program of its own, as README says, and builds it.
func (d *reader) usesTheModule() {
	d.t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		d.t.Fatal(err)
	}
	program := filepath.Join(d.folder, "yourprogram")
	for _, err := range []error{
		os.Symlink(root, filepath.Join(d.folder, "fetchworker")),
		os.Mkdir(program, 0o700),
		os.WriteFile(filepath.Join(program, "go.mod"), []byte("module example.com/you/yourprogram\n\ngo 1.26\n"), 0o600),
		os.WriteFile(filepath.Join(program, "main.go"), []byte("package main\n\nimport \"fetchworker\"\n\nfunc main() { println(fetchworker.StatusOK) }\n"), 0o600),
	} {
		if err != nil {
			d.t.Fatal(err)
		}
	}
	text, err := os.ReadFile("../README.md")
	if err != nil {
		d.t.Fatal(err)
	}
	lines := 0
	for _, line := range append(wholeLines(string(text)), "go build ./...") {
		if !strings.HasPrefix(line, "go mod ") && line != "go build ./..." {
			continue
		}
		cmd := exec.CommandContext(d.t.Context(), "/bin/sh", "-c", line)
		cmd.Dir = program
		if output, err := cmd.CombinedOutput(); err != nil {
			d.t.Errorf("%s: %v\n%s", line, err, output)
		}
		lines++
	}
	if lines != 3 {
		d.t.Errorf("%d lines of go are run", lines)
	}
}

var (
	inlineLine = regexp.MustCompile("`((?:go run \\./cmd/|worker check|fetch |gateway token|curl )[^`\n]+)`")
	typedLine  = regexp.MustCompile(`^(?:[A-Z_]+=\S+ )*(?:go|make|curl|nats|worker|replayer|fetch|gateway|docker|claude|npx|git|install|systemctl|cd) `)
	namedOnly  = regexp.MustCompile(`^(fetch mcp|go run \./cmd/replayer status)$|^fetch [a-z]+$`)
	ourGateway = regexp.MustCompile(`^(?:[A-Z_]+=\S+ )+gateway$`)
)

// wholeLines are the command lines of a document: those in its blocks, joined
// where one goes on in the next, and whole ones in the text.
func wholeLines(text string) (lines []string) {
	var blocks []string
	fence, blank := "", true
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "```") && fence == "":
			fence = trimmed
		case strings.HasPrefix(trimmed, "```"):
			fence = ""
		case fence == "```sh", fence == "" && strings.HasPrefix(line, "    ") && (blank || len(blocks) > 0 && blocks[len(blocks)-1] != ""):
			blocks = append(blocks, trimmed)
			continue
		}
		blank = trimmed == ""
		blocks = append(blocks, "")
	}
	joined := strings.ReplaceAll(strings.Join(blocks, "\n"), "\\\n", " ")
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if comment := strings.LastIndex(line, "  #"); comment >= 0 {
			line = strings.TrimSpace(line[:comment])
		}
		if strings.Contains(line, "    ") { // a table
			continue
		}
		if typedLine.MatchString(line) || ourGateway.MatchString(line) {
			lines = append(lines, line)
		}
	}
	for _, m := range inlineLine.FindAllStringSubmatch(text, -1) {
		if !namedOnly.MatchString(m[1]) {
			lines = append(lines, m[1])
		}
	}
	return lines
}
