package fetchworker_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fetchworker"
)

// module is the path of ours, which a fork may change.
var module = reflect.TypeFor[fetchworker.Request]().PkgPath()

// TestImportsPointDown holds the layering over all that a package links,
// where the linter sees what it imports by name. Tests may import what they
// like: only the packages themselves are looked at.
func TestImportsPointDown(t *testing.T) {
	const (
		nats       = "github.com/nats-io"
		natsServer = "github.com/nats-io/nats-server"
	)
	internal := module + "/internal"
	layer := func(name string) string { return internal + "/" + name }

	pkgs := list(t)
	// While main is not written yet the packages under it may be missing too;
	// from then on a missing one means that its rules hold for nothing.
	_, complete := pkgs[module+"/cmd/worker"]

	for _, rule := range []struct {
		pkg  string
		deny []string // a package and everything below it
		but  []string // exceptions to deny
	}{
		{pkg: module, deny: []string{internal, natsServer}},
		{pkg: layer("wire"), deny: []string{internal, natsServer}, but: []string{layer("wire")}},
		{pkg: layer("record"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("wait")}},
		{pkg: layer("answer"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("record"), layer("wait")}},
		{pkg: layer("budget"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("budget"), layer("wait")}},
		{pkg: layer("budget/ledger"), deny: []string{module, "github.com/nats-io"}},
		{pkg: layer("budget/turns"), deny: []string{module, "github.com/nats-io"}, but: []string{layer("budget/ledger"), layer("budget/circuit"), layer("budget/turns")}},
		{pkg: layer("budget/store"), deny: []string{module, natsServer}, but: []string{layer("budget/ledger"), layer("budget/store"), layer("wait")}},
		{pkg: layer("budget/meter"), deny: []string{module, "github.com/nats-io"}, but: []string{layer("budget/meter"), layer("wait")}},
		{pkg: layer("budget/fleet"), deny: []string{layer("budget"), natsServer}, but: []string{layer("wire"), layer("budget/fleet"), layer("budget/ledger"), layer("budget/turns"), layer("budget/circuit"), layer("budget/store")}},
		{pkg: layer("budget/circuit"), deny: []string{internal, "github.com/nats-io"}},
		{pkg: layer("dial"), deny: []string{module, natsServer}},
		{pkg: layer("broker"), deny: []string{internal}, but: []string{layer("wire"), layer("wait"), layer("dial")}},
		{pkg: layer("memory"), deny: []string{module, nats}},
		{pkg: layer("providers"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("budget/ledger"), layer("nearest"), layer("memory"), layer("providers")}},
		{pkg: layer("providers/scan"), deny: []string{internal, nats}},
		{pkg: layer("providers/redact"), deny: []string{internal, nats}},
		{pkg: layer("providers/headers"), deny: []string{internal, nats}},
		{pkg: layer("providers/sheet"), deny: []string{internal}, but: []string{layer("wire"), layer("budget/ledger"), layer("providers/scan"), layer("providers/redact")}},
		{pkg: layer("providers/plan"), deny: []string{layer("providers")}, but: []string{layer("nearest"), layer("providers/plan"), layer("providers/sheet"), layer("providers/scan"), layer("providers/redact")}},
		{pkg: layer("providers/classify"), deny: []string{layer("providers")}, but: []string{layer("providers/sheet"), layer("providers/headers"), layer("providers/scan"), layer("providers/redact")}},
		{pkg: layer("providers/call"), deny: []string{layer("providers/catalogue")}},
		{pkg: layer("providers/catalogue"), deny: []string{layer("providers/call"), layer("providers/classify")}},
		{pkg: layer("dlq"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("answer"), layer("record"), layer("budget"), layer("wait"), layer("cancel")}},
		{pkg: layer("cancel"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("answer"), layer("record"), layer("wait")}},
		{pkg: layer("wait"), deny: []string{module, natsServer}},
		{pkg: layer("sweep"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("nearest"), layer("browse"), layer("dlq"), layer("answer"), layer("record"), layer("budget"), layer("wait"), layer("cancel")}},
		{pkg: layer("browse"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("dlq"), layer("answer"), layer("record"), layer("budget"), layer("wait"), layer("cancel")}},
		{pkg: layer("operate"), deny: []string{layer("fetch"), layer("providers"), layer("app")}},
		{pkg: layer("doctor"), deny: []string{layer("fetch"), layer("providers"), layer("app")}},
		{pkg: layer("page"), deny: []string{layer("fetch"), layer("providers"), layer("app")}},
		{pkg: layer("fetch"), deny: []string{layer("broker"), layer("app"), natsServer}},
		{pkg: layer("intake"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("wait")}},
		{pkg: layer("cache"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("record"), layer("wait"), layer("providers"), layer("budget/ledger"), layer("nearest"), layer("memory")}},
		{pkg: layer("usage"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("budget/store"), layer("budget/ledger"), layer("wait")}},
		{pkg: layer("observe"), deny: []string{internal, natsServer}, but: []string{layer("wire"), layer("record"), layer("budget"), layer("wait")}},
		{pkg: layer("app"), deny: []string{layer("fetch"), layer("providers"), layer("dlq"), layer("answer"), layer("record"), layer("budget"), layer("cancel")}},
		{pkg: module + "/cmd/replayer", deny: []string{layer("fetch"), layer("providers")}},
		{pkg: layer("gateway"), deny: []string{internal, natsServer}, but: []string{layer("gateway")}},
		{pkg: layer("gateway/catalogue"), deny: []string{internal, natsServer}, but: []string{layer("gateway/catalogue")}},
		{pkg: layer("gateway/openapi"), deny: []string{internal, natsServer}, but: []string{layer("gateway/openapi")}},
		{pkg: layer("gateway/tokens"), deny: []string{internal, natsServer}, but: []string{layer("gateway/tokens")}},
		{pkg: layer("gateway/tools"), deny: []string{internal, natsServer, "net/http/httptest"}, but: []string{layer("gateway/tools"), layer("gateway/catalogue")}},
		{pkg: module + "/cmd/gateway", deny: []string{layer("fetch"), layer("providers"), layer("dlq"), layer("answer"), layer("record"), layer("budget")}},
		{pkg: module + "/cmd/worker"},
		{pkg: module + "/cmd/fetch", deny: []string{layer("fetch"), layer("providers"), layer("dlq"), layer("answer"), layer("record"), layer("budget")}},
	} {
		p, ok := pkgs[rule.pkg]
		if !ok {
			if complete {
				t.Errorf("%s is missing: its rule holds nothing", rule.pkg)
			}
			continue
		}
		for _, dep := range p.Deps {
			if within(dep, rule.deny) && !within(dep, rule.but) {
				t.Errorf("%s links %s", rule.pkg, dep)
			}
		}
	}

	for path, p := range pkgs {
		for _, imp := range p.Imports {
			if within(imp, []string{natsServer}) && !within(path, []string{layer("broker")}) {
				t.Errorf("%s imports %s: only broker may", path, imp)
			}
			if imp == layer("providers/providertest") && path != module+"/cmd/worker" {
				t.Errorf("%s imports %s: only tests and the worker's demo may", path, imp)
			}
		}
	}
}

// within reports whether pkg is one of roots or lies below one.
func within(pkg string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return pkg == root || strings.HasPrefix(pkg, root+"/")
	})
}

// pkg is what the go command says about a package.
type pkg struct {
	ImportPath string   `json:"ImportPath"`
	GoFiles    []string `json:"GoFiles"`
	Imports    []string `json:"Imports"`
	Deps       []string `json:"Deps"` // everything linked, not only what is imported
}

// list returns the module's packages by import path.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	// A passed test is cached until a file changes that the test itself opened,
	// and what a command of its opens does not count.
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { return err })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}

	// -e: a package that does not build is for the compiler to report.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,GoFiles,Imports,Deps", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.String())
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
	if _, ok := pkgs[module]; !ok {
		t.Fatalf("%v does not list %s", cmd, module)
	}
	return pkgs
}
