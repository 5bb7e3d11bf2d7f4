package deploy_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheImagesBuildStepsRun runs what the Dockerfile's build stage runs, on a
// copy of what .dockerignore lets through, with no engine.
func TestTheImagesBuildStepsRun(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries")
	}
	dockerfile := read(t, "Dockerfile")
	stage, _, _ := strings.Cut(dockerfile, "\nFROM scratch")
	src, out := t.TempDir(), t.TempDir()
	buildContext(t, src)

	env := append(os.Environ(), "VERSION=1.2.3")
	for _, m := range regexp.MustCompile(`(?m)^ENV (\S+=\S+)$`).FindAllStringSubmatch(stage, -1) {
		env = append(env, m[1])
	}
	steps := regexp.MustCompile(`(?m)^RUN (.+)$`).FindAllStringSubmatch(stage, -1)
	if len(steps) == 0 {
		t.Fatal("no steps")
	}
	for _, step := range steps {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(step[1], "/out/", out+"/"))
		cmd.Dir, cmd.Env = src, env
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", step[1], err, text)
		}
	}

	const limit = 40 << 20
	copied := regexp.MustCompile(`COPY --from=build /out/(\S+)`).FindAllStringSubmatch(dockerfile, -1)
	if len(copied) != 3 {
		t.Fatalf("the images hold %v", copied)
	}
	for _, m := range copied {
		path := filepath.Join(out, m[1])
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %d bytes", m[1], info.Size())
		}
		t.Logf("%s: %.1f MB", m[1], float64(info.Size())/(1<<20))
		static(t, path)
	}
	version := exec.CommandContext(t.Context(), filepath.Join(out, "worker"), "version")
	if text, err := version.Output(); err != nil || !strings.HasPrefix(string(text), "fetchworker worker 1.2.3 go1.") {
		t.Errorf("%s %v", text, err)
	}
	if !strings.Contains(dockerfile, "USER 65532:65532") {
		t.Error("it runs as root")
	}
}

// static checks that a binary needs no library: its image has none.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s is not static", path)
		}
	}
}

// buildContext copies what .dockerignore lets through: names after "!".
func buildContext(t *testing.T, to string) {
	t.Helper()
	for line := range strings.Lines(read(t, ".dockerignore")) {
		pattern, ok := strings.CutPrefix(strings.TrimSpace(line), "!")
		if !ok {
			continue
		}
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(matches) == 0 {
			t.Fatalf(".dockerignore: %s matches nothing", pattern)
		}
		for _, match := range matches {
			info, err := os.Stat(match)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(root, match)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				err = os.CopyFS(filepath.Join(to, name), os.DirFS(match))
			} else {
				var content []byte
				if content, err = os.ReadFile(match); err == nil {
					err = os.WriteFile(filepath.Join(to, name), content, 0o644)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
