package answer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"fetchworker"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
)

// partsInFlight are the parts of large bodies that a store has on their way,
// of all requests together: each is once more in the connection's buffer, and
// a server that syncs every write takes no more at a time than this.
const partsInFlight = 16

// nonce is the same for the same body of the same request, so that a retry
// writes its parts over those of before.
func nonce(id fetchworker.Identity, sum [sha256.Size]byte) string {
	of := sha256.Sum256(append([]byte(id.String()+"."), sum[:]...))
	return hex.EncodeToString(of[:16])
}

// storeBody stores a large body in parts and returns the claim check. A crash
// leaves parts without a claim; they age out.
func (s *Store) storeBody(parent context.Context, id fetchworker.Identity, body []byte) (*fetchworker.Claim, error) {
	sum := sha256.Sum256(body)
	claim := &fetchworker.Claim{
		Prefix: fetchworker.BodyPrefix(id, nonce(id, sum)),
		Parts:  (len(body) + fetchworker.MaxInlineBody - 1) / fetchworker.MaxInlineBody,
		Bytes:  int64(len(body)), SHA256: hex.EncodeToString(sum[:]),
	}
	group, ctx := errgroup.WithContext(parent)
	for part := range claim.Parts {
		if s.parts.Acquire(ctx, 1) != nil {
			break // a part has failed, or ctx ended: Wait tells
		}
		from := part * fetchworker.MaxInlineBody
		m := nats.NewMsg(claim.Prefix + "." + strconv.Itoa(part+1))
		m.Data = body[from:min(from+fetchworker.MaxInlineBody, len(body))]
		group.Go(func() error {
			defer s.parts.Release(1)
			return s.log.Append(ctx, "body", fetchworker.StreamBodies, m)
		})
	}
	if err := errors.Join(group.Wait(), parent.Err()); err != nil {
		return nil, fmt.Errorf("store body of %s: %w", id, err)
	}
	return claim, nil
}
