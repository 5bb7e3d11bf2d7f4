package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"fetchworker/internal/dlq"
	"fetchworker/internal/doctor"
	"fetchworker/internal/operate"
)

const docs = "../../docs/"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A runbook with a typing error is found at three in the morning: every
// command in it is one that the scripts run, word for word. (Quotes differ:
// scripts know single ones only.)
func TestTheRunbookUsesOnlyCommandsThatAreTested(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, script := range scripts {
		for line := range strings.Lines(read(t, script)) {
			tested[strings.ReplaceAll(strings.TrimSpace(line), `'`, `"`)] = true
		}
	}
	// These do not end by themselves; terminal_test.go and access_test.go run them.
	tested["replayer status --provider fmp --watch"] = true
	commands, fenced := 0, false
	for line := range strings.Lines(read(t, docs+"runbook.md")) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = line == "```sh"
		case fenced && line != "":
			commands++
			if !tested[line] {
				t.Errorf("no script runs %q", line)
			}
		}
	}
	if commands < 20 {
		t.Errorf("only %d commands found in the runbook", commands)
	}
}

// Whoever reads --json lives by docs/replayer.md: it names every field.
func TestEveryFieldOfJSONIsDocumented(t *testing.T) {
	text := read(t, docs+"replayer.md")
	for _, line := range []any{
		letterLine{},
		dlq.Attempt{},
		dossier{},
		answerLine{},
		planLine{},
		operate.GroupCount{},
		operate.Group{},
		resultLine{},
		operate.Status{},
		operate.LaneStatus{},
		operate.PermitStatus{},
		controlLine{},
		operate.Act{},
		operate.Used{},
		operate.Cause{},
		operate.MostBy{},
		operate.Event{},
		doctor.Diagnosis{},
		doctor.Finding{},
		doctor.Answer{},
		keylessJSON{},
	} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(line)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "" && name != "-" && !strings.Contains(text, "`"+name+"`") {
				t.Errorf("%T: field %s is not in docs/replayer.md", line, name)
			}
		}
	}
}
