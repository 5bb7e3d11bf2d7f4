//go:build !race

package budget

const underRace = false
