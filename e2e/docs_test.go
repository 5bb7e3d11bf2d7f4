package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestTheProgramsTakeTheCommandsOfTheDocuments gives every command line of ours
// in the documents to its program, with --help: a command, a flag that is not
// there fails. (The runbook's are run for what they do, by the replayer's tests.)
func TestTheProgramsTakeTheCommandsOfTheDocuments(t *testing.T) {
	begin(t)
	files := []string{"../README.md", "../CONTRIBUTING.md"}
	for _, pattern := range []string{"../docs/*.md", "../deploy/*/*.md", "../examples/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(text)) {
			words := split(line)
			name := words[0]
			switch {
			case tried[line]:
			case name == "make":
				for _, target := range words[1:] {
					if !strings.Contains(target, "=") && !strings.Contains(string(makefile), "\n"+target+":") {
						t.Errorf("%s: there is no target %s", file, target)
					}
				}
			default:
				p := launch(t, line, program(name), map[string]string{"NATS_URL": "nats://127.0.0.1:1"}, append(words[1:], "--help")...)
				if code := p.ended(t, 30*time.Second); code != 0 {
					t.Errorf("%s: %q is not taken: exit code %d, %s", file, line, code, p.log.tail(3))
				}
			}
			tried[line] = true
		}
	}
	const some = 50
	if len(tried) < some {
		t.Errorf("only %d commands are found", len(tried))
	}
}

var (
	oursInline = regexp.MustCompile("`((?:worker|replayer|fetch|make)(?: [^`\n]+)?)`")
	oursAlone  = regexp.MustCompile(`(?m)^(?: {4,}|\$ )?(?:[A-Z_]+=\S+ )*(?:go run \./cmd/)?((?:worker|replayer|fetch|make) [^\n]+)$`)
	fenced     = regexp.MustCompile("(?ms)^ *```(?:sh)?\n(.*?)^ *```")
)

// commandLines are the command lines of ours in a document: in code, inline or
// in a block.
func commandLines(text string) (lines []string) {
	for _, m := range oursInline.FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	var blocks strings.Builder
	for _, m := range fenced.FindAllStringSubmatch(text, -1) {
		blocks.WriteString(m[1])
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			blocks.WriteString(line)
		}
	}
	for _, m := range oursAlone.FindAllStringSubmatch(blocks.String(), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// split cuts a line into words as a shell does, up to what is no longer the
// command.
func split(line string) (words []string) {
	word, quote, inWord := "", rune(0), false
	end := func() {
		if inWord {
			words = append(words, word)
		}
		word, inWord = "", false
	}
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, inWord = r, true
		case quote == 0 && r == ' ':
			end()
		case quote == 0 && !inWord && strings.ContainsRune("#|>&;", r):
			return words
		default:
			word, inWord = word+string(r), true
		}
	}
	return words
}
