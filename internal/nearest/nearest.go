// Package nearest finds what somebody may have meant.
package nearest

import (
	"cmp"
	"slices"
	"strings"
)

// Of is the word that is so near to the one written that it was probably
// meant; empty if none is.
func Of(written string, words []string) string {
	best := Sorted(written, words)
	if len(best) == 0 {
		return ""
	}
	far := distance(strings.ToLower(written), strings.ToLower(best[0]))
	if far <= max(1, len(written)/3) {
		return best[0]
	}
	return ""
}

// Sorted are the words, the nearest first.
func Sorted(written string, words []string) []string {
	written = strings.ToLower(written)
	far := make(map[string]int, len(words))
	for _, word := range words {
		lower := strings.ToLower(word)
		far[word] = distance(written, lower)
		if written != "" && strings.Contains(lower, written) {
			far[word] = 0 // a part of it
		}
	}
	words = slices.Clone(words)
	slices.SortFunc(words, func(a, b string) int {
		return cmp.Or(cmp.Compare(far[a], far[b]), strings.Compare(a, b))
	})
	return words
}

// told is how many words There names.
const told = 12

// There says which words there are instead of the one written, the nearest
// of many.
func There(written string, words []string) string {
	switch {
	case len(words) == 0:
		return "there are none yet"
	case len(words) > told:
		return "there are " + strings.Join(Sorted(written, words)[:told], ", ") + " and more"
	}
	return "there are " + strings.Join(words, ", ")
}

// distance is how many letters have to be put in, left out, changed or
// swapped with the next to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
