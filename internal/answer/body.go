package answer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"time"

	"fetchworker"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// partsInFlight are the parts of large bodies that a store has on their way,
// of all requests together: each is once more in the connection's buffer, and
// every small answer waits behind those that a server syncs. More are not
// faster either: with sixteen a small answer waited ten times as long.
const partsInFlight = 4

// storeBody stores a large body in parts and returns the claim check. It lies
// there once an agent and content, so that answers with the same body cost
// their store one; a small message beside the parts, stored after them, says
// since when. A crash leaves parts without a claim; they age out.
func (s *Store) storeBody(parent context.Context, a fetchworker.Answer) (*fetchworker.Claim, error) {
	id, body, digest := a.Identity, a.Body, a.SHA256
	if digest == "" {
		digest = sumOf(body)
	}
	claim := &fetchworker.Claim{
		Prefix: wire.BodyPrefix(id.Agent, digest),
		Parts:  (len(body) + fetchworker.MaxInlineBody - 1) / fetchworker.MaxInlineBody,
		Bytes:  int64(len(body)), SHA256: digest,
	}
	whole, err := s.log.Last(parent, fetchworker.StreamBodies, claim.Prefix+wholeToken)
	switch {
	case err == nil && time.Since(whole.Time) < wire.BodyReuse:
		return claim, nil
	case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, fmt.Errorf("look for the body of %s: %w", id, err)
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
	err = errors.Join(group.Wait(), parent.Err())
	if err == nil {
		err = s.log.Append(parent, "body", fetchworker.StreamBodies, nats.NewMsg(claim.Prefix+wholeToken))
	}
	if err != nil {
		return nil, fmt.Errorf("store body of %s: %w", id, err)
	}
	return claim, nil
}

// summedAtOnce is what is hashed in one go, in bytes: nothing breaks that off,
// not even the garbage collector, for which everybody would wait.
const summedAtOnce = 256 << 10

// sumOf is the SHA-256 of a body. Others have their turn meanwhile.
func sumOf(body []byte) string {
	sum := sha256.New()
	for piece := range slices.Chunk(body, summedAtOnce) {
		_, _ = sum.Write(piece) // a hash takes everything
		runtime.Gosched()
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// wholeToken ends the subject of the message that says that all parts are
// there.
const wholeToken = ".0"
