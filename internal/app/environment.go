package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"fetchworker/internal/nearest"
	"fetchworker/internal/providers"
)

// environment remembers which variables were read.
type environment struct {
	getenv func(string) string

	mu   sync.Mutex
	read map[string]bool
}

func watchEnvironment(getenv func(string) string) *environment {
	return &environment{getenv: getenv, read: map[string]bool{}}
}

func (e *environment) get(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.read[name] = true
	return e.getenv(name)
}

// unread are warnings of variables that are set and that nothing reads, though
// their names begin as ours do: a limit under a mistyped name is no limit.
func (e *environment) unread(set *providers.Set) []string {
	var names []string
	for _, pair := range os.Environ() {
		// Tests give environments of their own: what is not in that is not set.
		if name, _, _ := strings.Cut(pair, "="); e.getenv(name) != "" {
			names = append(names, name)
		}
	}
	prefixes := []string{"FETCH_"}
	for _, p := range set.All() {
		prefixes = append(prefixes, p.EnvPrefix+"_")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return mistyped(names, e.read, prefixes)
}

func mistyped(names []string, read map[string]bool, prefixes []string) []string {
	var warnings []string
	for _, name := range slices.Sorted(slices.Values(names)) {
		if meant := meantOfNATS(name, read); meant != "" && !read[name] {
			warnings = append(warnings, fmt.Sprintf("%s is set, and nothing reads it: did you mean %s?", name, meant))
		}
		ours := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !ours || read[name] {
			continue
		}
		warning := name + " is set, and nothing reads it"
		if meant := nearest.Of(name, slices.Sorted(maps.Keys(read))); meant != "" {
			warning += fmt.Sprintf(": did you mean %s?", meant)
		}
		warnings = append(warnings, warning)
	}
	return warnings
}

// meantOfNATS is what was probably meant by a variable of NATS. Others read
// such too (the nats command, our servers' configuration), so only one that is
// next to one of ours is told: without its server a worker embeds one.
func meantOfNATS(name string, read map[string]bool) string {
	const prefix = "NATS_"
	written, is := strings.CutPrefix(name, prefix)
	if !is {
		return ""
	}
	var words []string
	for known := range read {
		if word, is := strings.CutPrefix(known, prefix); is {
			words = append(words, word)
		}
	}
	if meant := nearest.Of(written, words); meant != "" {
		return prefix + meant
	}
	return ""
}
