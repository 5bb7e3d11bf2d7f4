package fetchworker_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestThePackagePageIsWhatAnAgentNeeds: what the package exports is listed, so
// that nothing of the service's insides comes to stand there unseen. Those have
// their place in internal/wire.
func TestThePackagePageIsWhatAnAgentNeeds(t *testing.T) {
	const list = "testdata/exported.txt"
	got := strings.Join(exported(t), "\n") + "\n"
	if os.Getenv("FETCH_UPDATE") != "" {
		if err := os.WriteFile(list, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the package exports other names than %s (FETCH_UPDATE=1 go test . writes it):\n%s", list, got)
	}
}

// exported are the names of the package, methods with their type before them.
func exported(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	add := func(of string, name *ast.Ident) {
		if name.IsExported() {
			names = append(names, of+name.Name)
		}
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			switch d := decl.(type) { //nolint:exhaustive // only what can be named
			case *ast.FuncDecl:
				switch of := receiver(d); {
				case d.Recv == nil:
					add("", d.Name)
				case ast.IsExported(of):
					add(of+".", d.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) { //nolint:exhaustive // only what can be named
					case *ast.TypeSpec:
						add("", s.Name)
					case *ast.ValueSpec:
						for _, name := range s.Names {
							add("", name)
						}
					default: // an import
					}
				}
			default: // what cannot be read
			}
		}
	}
	slices.Sort(names)
	return names
}

// receiver is the name of the type that a method is of.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	of := d.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	if generic, ok := of.(*ast.IndexExpr); ok {
		of = generic.X
	}
	if name, ok := of.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
