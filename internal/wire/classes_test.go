package wire_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fetchworker/internal/wire"
)

// TestEveryClassIsListed: in the lists that rules, filters and the page are made
// of, and in the documents that agents and writers of sheets read.
func TestEveryClassIsListed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "classes.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var all []wire.Class
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, is := n.(*ast.ValueSpec); is {
			literal, is := spec.Values[0].(*ast.BasicLit)
			if !is {
				t.Fatalf("%s is no text", spec.Names[0])
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Error(err)
			}
			all = append(all, wire.Class(text))
		}
		return true
	})
	if len(all) == 0 {
		t.Fatal("no classes are found")
	}
	for _, c := range all {
		if (c == wire.ClassOK) == slices.Contains(wire.LetterClasses(), c) {
			t.Errorf("LetterClasses has %s, or lacks it", c)
		}
	}
	for _, c := range slices.Concat(wire.LetterClasses(), wire.AnswerClasses()) {
		if !slices.Contains(all, c) {
			t.Errorf("%q is no class", c)
		}
	}
	same := func(path, from, until string, want []wire.Class) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, table, found := strings.Cut(string(text), from)
		table, _, ended := strings.Cut(table, until)
		var got []wire.Class
		for _, word := range regexp.MustCompile(" `([a-z_]+)`").FindAllStringSubmatch(table, -1) {
			got = append(got, wire.Class(word[1]))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !found || !ended || !slices.Equal(got, want) {
			t.Errorf("%s tells of %q, want %q", path, got, want)
		}
	}
	same("../../docs/messages.md", "\n| class | meaning |\n| --- | --- |\n", "\n\n", wire.LetterClasses())
	same("../../docs/catalogue.md", "\n| `class` |", "|\n", wire.AnswerClasses())
}
