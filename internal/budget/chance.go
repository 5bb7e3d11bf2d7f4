package budget

import (
	"math/rand/v2"
)

// Chance here spreads workers in time and tells registers apart. None of it
// is a secret.

func newRand() *rand.Rand {
	return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // no secret
}

func newEpoch() int64 {
	return rand.Int64() //nolint:gosec // no secret
}
