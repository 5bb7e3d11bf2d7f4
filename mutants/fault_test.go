package main

import "testing"

// A fault whose place the code has moved away from proves nothing any more: it
// moves along, or goes with its code.
func TestEveryFaultHasItsPlace(t *testing.T) {
	t.Chdir("..")
	names := map[string]bool{}
	for _, dir := range []string{"mutants", "mutants/open"} {
		faults, err := readAll(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range faults {
			if _, err := f.apply(); err != nil {
				t.Error(err)
			}
			if names[f.name] {
				t.Errorf("%s stands twice", f.name)
			}
			names[f.name] = true
		}
	}
}
