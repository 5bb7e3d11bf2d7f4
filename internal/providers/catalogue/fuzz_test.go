package catalogue

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fetchworker/internal/providers/sheet"
)

// FuzzRights: a file that is understood grants only rights that have a name, to
// agents that have one, the same when it is written out again; whatever is not
// is refused with its line.
func FuzzRights(f *testing.F) {
	for _, seed := range []string{
		"agents:\n  alice: [fundamentals, options_data]\n  trusted: [\"*\"]\ndefault: [fundamentals]\n", "agents: {}\n", "default: []\n", "default:\n", "agents:\n  alice:\n",
		"agents:\n  Alice: [x]\n", "agents:\n  alice: x\n", "agents:\n  alice: [x]\n  alice: [y]\n", "other: 1\n", "", "[]", "a: &a [x]\nagents:\n  b: *a\n", "agents:\n  ? [a]\n  : [b]\n", "agents:\n  <<: {a: [b]}\n", "--- \n---\n", "agents:\n  a: [1, true, null]\n",
	} {
		f.Add([]byte(seed))
	}
	line := regexp.MustCompile(`rights\.yaml(:\d+)?: `)
	f.Fuzz(func(t *testing.T, content []byte) {
		agents, others, err := Rights("rights.yaml", content)
		if err != nil {
			if !line.MatchString(err.Error()) {
				t.Fatalf("%q: %v", content, err)
			}
			return
		}
		var b strings.Builder
		write := func(key string, rights []string) {
			for _, right := range rights {
				if right != "*" && !sheet.NamePattern.MatchString(right) {
					t.Fatalf("%q grants %q", content, right)
				}
			}
			fmt.Fprintf(&b, "%q: [", key)
			for _, right := range rights {
				fmt.Fprintf(&b, "%q, ", right)
			}
			b.WriteString("]\n")
		}
		if len(others) > 0 {
			write("default", others)
		}
		if len(agents) > 0 {
			b.WriteString("agents:\n")
		}
		for _, name := range slices.Sorted(maps.Keys(agents)) {
			if !sheet.NamePattern.MatchString(name) {
				t.Fatalf("%q names %q", content, name)
			}
			b.WriteString("  ")
			write(name, agents[name])
		}
		if len(agents) == 0 && len(others) == 0 {
			return
		}
		same, rest, err := Rights("rights.yaml", []byte(b.String()))
		if err != nil || !slices.Equal(rest, others) || !reflect.DeepEqual(lists(same), lists(agents)) {
			t.Fatalf("%q\nbecame\n%s: %v", content, b.String(), err)
		}
	})
}

// lists are the rights with no difference between none and an empty list.
func lists(agents map[string][]string) map[string]string {
	all := map[string]string{}
	for name, rights := range agents {
		all[name] = strings.Join(rights, " ")
	}
	return all
}
