package app

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"fetchworker/internal/nearest"
)

// Environment remembers which variables were read.
type Environment struct {
	getenv func(string) string

	mu   sync.Mutex
	read map[string]bool
}

// WatchEnvironment watches over an environment.
func WatchEnvironment(getenv func(string) string) *Environment {
	return &Environment{getenv: getenv, read: map[string]bool{}}
}

// Get reads a variable.
func (e *Environment) Get(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.read[name] = true
	return e.getenv(name)
}

// Unread are warnings of variables that are set and that nothing reads, though
// their names begin as ours do: a limit under a mistyped name is no limit. The
// prefixes are those of providers, for a program that reads theirs.
func (e *Environment) Unread(providers ...string) []string {
	var names []string
	for _, pair := range os.Environ() {
		// Tests give environments of their own: what is not in that is not set.
		if name, _, _ := strings.Cut(pair, "="); e.getenv(name) != "" {
			names = append(names, name)
		}
	}
	prefixes := []string{"FETCH_"}
	for _, p := range providers {
		prefixes = append(prefixes, p+"_")
	}
	return mistyped(names, e.known(), prefixes)
}

// known are the variables that were read, and those that others of ours read.
func (e *Environment) known() map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := maps.Clone(e.read)
	for _, name := range ofWorkers {
		known[name] = true
	}
	return known
}

// Warn logs them.
func (e *Environment) Warn(logger *zap.Logger, providers ...string) {
	for _, warning := range e.Unread(providers...) {
		logger.Warn("configuration", zap.String("warning", warning))
	}
}

// ofWorkers are variables that only workers read. All programs are often given
// the same environment.
var ofWorkers = []string{"FETCH_CATALOG", "FETCH_RIGHTS"}

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
