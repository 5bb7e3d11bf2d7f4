package fetchworker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
)

// followed collects what Answers yields.
type followed struct {
	mu   sync.Mutex
	got  []fetchworker.Answer
	err  error
	done chan struct{}
}

func follow(ctx context.Context, c *fetchworker.Client, after uint64) *followed {
	f := &followed{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for a, err := range c.Answers(ctx, after) {
			f.mu.Lock()
			if f.err = err; err == nil {
				f.got = append(f.got, a)
			}
			f.mu.Unlock()
		}
	}()
	return f
}

// ids waits until so many answers came, and tells whose.
func (f *followed) ids(t *testing.T, n int) string {
	t.Helper()
	var ids []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		ids = nil
		for _, a := range f.got {
			ids = append(ids, a.Identity.ID)
		}
		f.mu.Unlock()
		if len(ids) >= n || time.Now().After(deadline) {
			return strings.Join(ids, " ")
		}
	}
}

func TestAnswersAreToldFromAnyPlaceOn(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	id := func(n int) fetchworker.Identity {
		return fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-" + strconv.Itoa(n)}
	}
	if last, err := alice.LastAnswer(soon(t)); err != nil || last != 0 {
		t.Fatalf("%d %v", last, err)
	}
	for n := range 4 {
		s.store(ok(id(n), "[]"))
		s.store(ok(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "bob", ID: "secret"}, "[]"))
	}
	ctx, stop := context.WithCancel(t.Context())
	all := follow(ctx, alice, 0)
	if got := all.ids(t, 4); got != "q-0 q-1 q-2 q-3" {
		t.Errorf("from the beginning: %s", got)
	}
	last, err := alice.LastAnswer(soon(t))
	if err != nil || last == 0 {
		t.Fatalf("%d %v", last, err)
	}
	news, rest := follow(ctx, alice, last), follow(ctx, alice, all.got[1].Sequence)
	if got := rest.ids(t, 2); got != "q-2 q-3" {
		t.Errorf("after the second: %s", got)
	}
	s.store(waiting(id(4)))
	if got := all.ids(t, 5); got != "q-0 q-1 q-2 q-3 q-4" {
		t.Errorf("and live: %s", got)
	}
	s.store(ok(id(4), "[]"))
	if got := news.ids(t, 2); !strings.HasSuffix(got, "q-4") {
		t.Errorf("what is new: %s", got)
	}
	stop()
	for _, f := range []*followed{all, news, rest} {
		<-f.done
		if f.err != nil {
			t.Error(f.err)
		}
	}
}

// What comes faster than it is taken is read from the store.
func TestAnswersThatCameTooFastAreRead(t *testing.T) {
	s := startService(t)
	nc := s.Connect(t)
	defer nc.Close()
	alice, err := fetchworker.NewClient(nc, "alice")
	if err != nil {
		t.Fatal(err)
	}
	const many = 3000
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	began := make(chan struct{})
	seen := map[string]int{}
	go func() {
		<-began
		for n := range many {
			s.store(ok(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprintf("q-%d", n)}, "[]"))
		}
	}()
	var telling sync.WaitGroup
	defer telling.Wait()
	first := true
	s.store(ok(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "first"}, "[]"))
	for a, err := range alice.Answers(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if first {
			first = false
			close(began)
			for last := uint64(0); last < many+1 || !alice.Overrun(); { // nobody takes anything
				at, err := alice.LastAnswer(ctx)
				if err != nil {
					t.Fatal(err)
				}
				last = at
				time.Sleep(time.Millisecond)
			}
		}
		if seen[a.Identity.ID]++; len(seen) == many+1 && a.Identity.ID != "last" {
			telling.Go(func() { // and when all are told, what comes is told live again: nothing is read
				read := nc.Stats().OutMsgs
				time.Sleep(100 * time.Millisecond)
				if read = nc.Stats().OutMsgs - read; read > 10 {
					t.Errorf("%d reads after the flood", read)
				}
				s.store(ok(identity("last"), "[]"))
			})
		}
		if a.Identity.ID == "last" {
			break
		}
	}
	if seen["last"] != 1 {
		t.Error("the last did not come")
	}
	delete(seen, "last")
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	if len(seen) != many+1 {
		t.Errorf("%d of %d", len(seen), many+1)
	}
}

func TestFollowersAreEndedByClose(t *testing.T) {
	s := startService(t)
	alice, err := fetchworker.NewClient(s.Connect(t), "alice")
	if err != nil {
		t.Fatal(err)
	}
	f := follow(t.Context(), alice, 0)
	time.Sleep(20 * time.Millisecond)
	alice.Close()
	select {
	case <-f.done:
	case <-time.After(5 * time.Second): //nolint:forbidigo // it has no context
		t.Fatal("it goes on")
	}
	if !errors.Is(f.err, fetchworker.ErrClosed) {
		t.Error(f.err)
	}
}

// A body of any size is read in parts, the last after the check of the whole.
func TestALazyClientLeavesLargeBodiesInTheStore(t *testing.T) {
	s := startService(t)
	alice := s.client("alice").Lazily()
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "large-1"}
	whole := bytes.Repeat([]byte("0123456789abcdef"), 2*fetchworker.MaxInlineBody/16+100)
	s.storeLarge(id, whole, nil)
	a, err := alice.Result(soon(t), id)
	if err != nil || a.Body != nil || a.Claim == nil {
		t.Fatalf("%+v %v", a.Claim, err)
	}
	var body []byte
	parts := 0
	for part, err := range alice.Parts(soon(t), a) {
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, part...)
		parts++
	}
	if parts != 3 || !bytes.Equal(body, whole) {
		t.Errorf("%d parts, %d bytes", parts, len(body))
	}
	a.Claim.SHA256 = strings.Repeat("0", 64)
	parts = 0
	for _, err = range alice.Parts(soon(t), a) {
		if err == nil {
			parts++
		}
	}
	if parts != 2 || !errors.Is(err, fetchworker.ErrBodyCorrupt) {
		t.Errorf("%d parts of a body that is another: %v", parts, err)
	}
}
