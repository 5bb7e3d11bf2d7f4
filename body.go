package fetchworker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
)

// mostParts bounds a claim: 2 GiB, far more than any worker takes from a
// provider.
const mostParts = 4096

// Check judges a claim by itself, before anything is read or made room for:
// what an answer says of its body is only a message's header. ErrBodyCorrupt.
func (c Claim) Check(agent string) error {
	rest, ours := strings.CutPrefix(c.Prefix, "fetch.body."+agent+".")
	for token := range strings.SplitSeq(rest, ".") {
		ours = ours && ValidID(token)
	}
	switch {
	case !ours:
		return fmt.Errorf("a body under %q, which is none of %s's: %w", c.Prefix, agent, ErrBodyCorrupt)
	case c.Parts < 1 || c.Parts > mostParts || c.Bytes < 1 || c.Bytes > int64(c.Parts)*MaxInlineBody:
		return fmt.Errorf("%s: %d bytes in %d parts: %w", c.Prefix, c.Bytes, c.Parts, ErrBodyCorrupt)
	}
	return nil
}

const (
	// roomAtOnce is how much room is made for a body before any of it has come.
	roomAtOnce = 8 << 20
	// readAtOnce are the bytes of large bodies that a client reads at a time: one
	// of the largest, of which the program that asked may have had another.
	readAtOnce = 64 << 20
	// handledAtOnce are those that a subscriber has in its handlers.
	handledAtOnce = 128 << 20
)

// bodyRoom is room for large bodies. A nil one is without bounds.
type bodyRoom struct {
	all  int64
	left *semaphore.Weighted
}

func newBodyRoom(all int64) *bodyRoom { return &bodyRoom{all, semaphore.NewWeighted(all)} }

// take waits for the room that an answer's body needs. leave gives it back.
func (b *bodyRoom) take(ctx context.Context, a *Answer) (leave func(), err error) {
	if b == nil || a.Claim == nil {
		return func() {}, nil
	}
	n := min(max(a.Claim.Bytes, 0), b.all)
	if err := b.left.Acquire(ctx, n); err != nil {
		return nil, fmt.Errorf("read %s: %w", a.Claim.Prefix, context.Cause(ctx))
	}
	return func() { b.left.Release(n) }, nil
}

// resolve reads the parts of a large body in order, one on its way at a time,
// and checks them against the claim.
func (c *Client) resolve(ctx context.Context, a *Answer) error {
	if a.Claim == nil {
		return nil
	}
	leave, err := c.bodies.take(ctx, a)
	if err != nil {
		return err
	}
	defer leave()
	body := make([]byte, 0, min(max(a.Claim.Bytes, 0), roomAtOnce))
	for part, err := range c.Parts(ctx, *a) {
		if err != nil {
			return err
		}
		if len(body)+len(part) > cap(body) {
			// So much has come that the rest is no empty promise: it is made room
			// for once, for a body that grows leaves copies of itself behind.
			body = append(make([]byte, 0, max(min(a.Claim.Bytes, 8*roomAtOnce), int64(2*len(body)+len(part)))), body...)
		}
		body = append(body, part...)
	}
	a.Body = body
	return nil
}

// Parts reads the body of an answer part by part, at most MaxInlineBody bytes
// each, also one that is in the answer itself. The last part comes after the
// whole was checked against the claim: until then the rest may still turn out
// to be ErrBodyCorrupt. It ends after an error.
func (c *Client) Parts(ctx context.Context, a Answer) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if a.Claim == nil {
			yield(a.Body, nil)
			return
		}
		if err := a.Claim.Check(a.Identity.Agent); err != nil {
			yield(nil, err)
			return
		}
		sum, had := sha256.New(), int64(0)
		for part := 1; part <= a.Claim.Parts; part++ {
			data, err := c.part(ctx, a.Claim.Prefix+"."+strconv.Itoa(part))
			_, _ = sum.Write(data) // a hash takes everything
			had += int64(len(data))
			last := part == a.Claim.Parts
			switch {
			case err != nil:
			case had > a.Claim.Bytes:
				err = fmt.Errorf("%s is longer than it should be: %w", a.Claim.Prefix, ErrBodyCorrupt)
			case last && (had != a.Claim.Bytes || hex.EncodeToString(sum.Sum(nil)) != a.Claim.SHA256):
				err = fmt.Errorf("%s: %w", a.Claim.Prefix, ErrBodyCorrupt)
			}
			if !yield(data, err) || err != nil {
				return
			}
		}
	}
}

// Part reads one part of the body of an answer that has a Claim, from 1. It is
// not checked: who reads all of them with Parts knows what they must be.
func (c *Client) Part(ctx context.Context, a Answer, part int) ([]byte, error) {
	if a.Claim == nil {
		return nil, fmt.Errorf("answer %s has no parts: %w", a.Identity, ErrBodyCorrupt)
	}
	if err := a.Claim.Check(a.Identity.Agent); err != nil {
		return nil, err
	}
	return c.part(ctx, a.Claim.Prefix+"."+strconv.Itoa(part))
}

// resolveSurely tries again whatever is not the body's own fault, until ctx
// ends.
func (c *Client) resolveSurely(ctx context.Context, a *Answer) error {
	for wait := partPause; ; wait = min(2*wait, 2*time.Second) {
		err := c.resolve(ctx, a)
		if err == nil || errors.Is(err, ErrBodyCorrupt) || errors.Is(err, ErrNotPermitted) || errors.Is(err, ErrClosed) {
			return err
		}
		if ended := pause(ctx, wait); ended != nil {
			last := *a
			return &PendingError{Identity: a.Identity, Last: &last, Cause: ended, Trouble: err}
		}
	}
}

const (
	// partTries is how often a part is looked for that is not there.
	partTries = 10
	partPause = 100 * time.Millisecond
)

// part reads one part of a large body. Parts are stored before their answer,
// but the replica that serves a direct get may lag behind by a moment.
func (c *Client) part(ctx context.Context, subject string) ([]byte, error) {
	for range partTries {
		m, err := c.directGet(ctx, StreamBodies, subject)
		if err == nil {
			return m.Data, nil
		}
		if !errors.Is(err, ErrNoAnswer) {
			return nil, err
		}
		if err := pause(ctx, partPause); err != nil {
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
	}
	return nil, fmt.Errorf("%s is missing: %w", subject, ErrBodyCorrupt)
}
