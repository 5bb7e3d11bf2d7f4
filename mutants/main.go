// Command mutants puts faults into the code that somebody could really write,
// one at a time, and sees whether the tests notice. The faults are data, in
// the .txt files of this folder; no file of the tree is touched: the compiler
// is given the changed one in its place.
//
//	go run ./mutants                 every fault
//	go run ./mutants -only R7,fetch  those of a name, or in files that contain it
//	go run ./mutants -changed main   those of files that differ from a commit
//
// It fails where a fault is not noticed, or where it no longer applies because
// the code has moved on: then the fault moves along, or goes with its code.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	dir := flag.String("dir", "mutants", "the folder of the faults; mutants/open has those that no test was seen to notice yet")
	only := flag.String("only", "", "only faults of these names, or of files that contain one of them")
	changed := flag.String("changed", "", "only faults of files that differ from this commit")
	within := flag.Duration("within", 0, "begin no further fault after this time; 0: all")
	list := flag.Bool("list", false, "check that all apply, and run none")
	build := flag.Bool("build", false, "check that all compile, and run none")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, os.Stdout, *dir, *only, *changed, *within, mode(*list, *build)); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// how says what is done with each fault.
type how int

const (
	trying   how = iota // its tests are run
	applying            // it is only seen to apply
	building            // and to compile
)

func mode(list, build bool) how {
	switch {
	case list:
		return applying
	case build:
		return building
	}
	return trying
}

// result is what became of one fault.
type result string

const (
	noticed   result = "noticed"
	survived  result = "SURVIVED"
	broken    result = "DOES NOT COMPILE"
	moved     result = "NO LONGER APPLIES"
	unseen    result = "no user sees it"
	postponed result = "not run, no time left"
	applies   result = "applies"
)

func run(ctx context.Context, out io.Writer, from, only, changed string, within time.Duration, how how) error {
	faults, err := readAll(from)
	if err != nil {
		return err
	}
	whole := only == "" && changed == "" && within == 0
	faults = slicesOf(faults, only)
	if changed != "" {
		files, err := changedSince(ctx, changed)
		if err != nil {
			return err
		}
		faults = touching(faults, files)
	}
	if within > 0 {
		// Other faults each time, where not all can be run.
		rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] }) //nolint:gosec // no secret
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	counts := make(map[result]int)
	began := time.Now()
	var bad []string
	for _, f := range faults {
		var r result
		started := time.Now()
		switch {
		case f.unseen != "":
			r = unseen
		case within > 0 && time.Since(began) > within:
			r = postponed
		case how == applying:
			r = f.check()
		case how == building:
			if r, err = f.build(ctx, dir); err != nil {
				return err
			}
		default:
			if r, err = f.try(ctx, dir); err != nil {
				return err
			}
		}
		counts[r]++
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%.0f s\t%s\n", f.name, f.file, r, time.Since(started).Seconds(), f.why)
		if r == survived || r == broken || r == moved {
			bad = append(bad, f.name)
		}
		if how != applying {
			_ = table.Flush()
		}
	}
	_ = table.Flush()
	tried := counts[noticed] + counts[survived]
	if tried > 0 {
		_, _ = fmt.Fprintf(out, "\n%d of %d faults noticed (%d %%) in %.0f s; %d that no user sees", counts[noticed], tried, 100*counts[noticed]/tried, time.Since(began).Seconds(), counts[unseen])
		if counts[postponed] > 0 {
			_, _ = fmt.Fprintf(out, "; %d left for another time", counts[postponed])
		}
		_, _ = fmt.Fprintln(out)
	} else if whole || how != trying {
		_, _ = fmt.Fprintf(out, "\n%d faults, %d that no user sees\n", len(faults), counts[unseen])
	}
	if len(bad) > 0 {
		return fmt.Errorf("not noticed, or not to be tried: %s", strings.Join(bad, ", "))
	}
	return nil
}

// check says whether a fault can be put in.
func (f fault) check() result {
	if _, err := f.apply(); err != nil {
		return moved
	}
	return applies
}

// build says whether a fault compiles.
func (f fault) build(ctx context.Context, dir string) (result, error) {
	text, err := f.apply()
	if err != nil {
		return moved, nil //nolint:nilerr // what it says is in the table
	}
	overlay, err := overlayOf(dir, f.file, text)
	if err != nil {
		return "", err
	}
	err = exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "./"+filepath.Dir(f.file)).Run() // of this folder's own data
	var exit *exec.ExitError
	switch {
	case err == nil:
		return applies, nil
	case ctx.Err() == nil && errors.As(err, &exit):
		return broken, nil
	}
	return "", err
}

// try runs the tests that a fault names with the fault in the code.
func (f fault) try(ctx context.Context, dir string) (result, error) {
	text, err := f.apply()
	if err != nil {
		return moved, nil //nolint:nilerr // what it says is in the table
	}
	overlay, err := overlayOf(dir, f.file, text)
	if err != nil {
		return "", err
	}
	for _, t := range f.tests {
		r, err := test(ctx, overlay, t)
		if r != survived || err != nil {
			return r, err
		}
	}
	return survived, nil
}

// test runs the tests of one package over an overlay.
func test(ctx context.Context, overlay string, t tests) (result, error) {
	args := []string{"test", "-vet=off", "-count=1", "-failfast", "-timeout", "2m", "-overlay", overlay, "-run", t.run, "./" + t.pkg}
	cmd := exec.CommandContext(ctx, "go", args...)          // of this folder's own data
	cmd.Env = append(os.Environ(), "RAPID_NOFAILFILE=true") // what fails here, and on purpose, is nothing to try again
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case strings.Contains(string(said), "no tests to run"):
		return "", fmt.Errorf("no test matches %q in %s", t.run, t.pkg)
	case err == nil:
		return survived, nil
	case !errors.As(err, &exit):
		return "", err
	case strings.Contains(string(said), "[build failed]"), strings.Contains(string(said), "[setup failed]"):
		return broken, nil
	}
	return noticed, nil
}

// overlayOf tells the go command to read a file as this text.
func overlayOf(dir, file, text string) (string, error) {
	changed := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return "", err
	}
	here, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, here, changed), 0o600)
}

// changedSince are the files that differ from a commit.
func changedSince(ctx context.Context, commit string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "git", "diff", "--name-only", commit, "--").Output() // a commit of the caller's
	if err != nil {
		return nil, fmt.Errorf("what differs from %s: %w", commit, err)
	}
	return strings.Fields(string(out)), nil
}
