package call

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"slices"

	"fetchworker/internal/memory"
	"fetchworker/internal/providers/scan"
)

// look is what is learnt of a large body in one pass over it: as it is
// unpacked, or once it has come. Each look of its own would take a processor
// from others for as long again.
type look struct {
	json scan.Checker
	sum  hash.Hash
	pace *memory.Pace
	done bool
}

func newLook(b *memory.Budget, bytes int64) *look {
	return &look{sum: sha256.New(), pace: b.Pace(bytes)}
}

// Write takes the next piece.
func (l *look) Write(piece []byte) (int, error) {
	l.done = true
	_, _ = l.json.Write(piece)
	_, _ = l.sum.Write(piece)
	return l.pace.Write(piece)
}

// over looks at a body, if it has not been looked at while it came.
func (l *look) over(body []byte) {
	defer l.pace.End()
	if l.done {
		return
	}
	for piece := range slices.Chunk(body, lookedAtOnce) {
		_, _ = l.Write(piece)
	}
}

// lookedAtOnce is what is looked at in one go, in bytes.
const lookedAtOnce = 64 << 10

func (l *look) sha256() string { return hex.EncodeToString(l.sum.Sum(nil)) }
