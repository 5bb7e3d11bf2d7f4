package browse_test

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

func TestMain(m *testing.M) {
	brokertest.Main()
	m.Run()
}

func letter(provider string, n int) dlq.Letter {
	now := time.Now()
	return dlq.Letter{
		Identity: fetchworker.Identity{Provider: provider, Operation: "quote", Agent: "alice", ID: fmt.Sprint("q-", n)},
		Lane:     fetchworker.LaneBatch, Body: []byte("{}"), Generation: 1, Class: wire.ClassTransient,
		Error: "gone at port 8", HTTPStatus: 410, RequestedAt: now, FailedAt: now, FirstFailedAt: now, NotBefore: now,
	}
}

// Backwards yields what Walk does, in the other order, however the messages
// that match lie among those that do not.
func TestBackwardsIsTheWalkTurnedRound(t *testing.T) {
	b := brokertest.Start(t)
	for n := range 6000 {
		provider := "fmp"
		if n%1500 == 7 {
			provider = "fred" // four of six thousand
		}
		if _, err := b.JS.PublishMsgAsync(letter(provider, n).DeadLetter(), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	// What was there and is gone: the stretch that is read grows over it, and then
	// has more than is held at a time.
	for n := range 3000 {
		if _, err := b.JS.PublishMsgAsync(letter("gone", n).DeadLetter(), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-b.JS.PublishAsyncComplete()
	stream, err := b.JS.Stream(t.Context(), wire.StreamDLQ)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("fetch.dlq.gone.>")); err != nil {
		t.Fatal(err)
	}
	reader := browse.New(b.NC)
	for _, f := range []browse.Filter{{}, {Provider: "fmp"}, {Provider: "fred"}, {Provider: "nobody"}} {
		edge, err := reader.Edge(t.Context(), wire.StreamDLQ)
		if err != nil {
			t.Fatal(err)
		}
		var forth, back []uint64
		for found, err := range reader.Walk(t.Context(), wire.StreamDLQ, f, edge) {
			if err != nil {
				t.Fatal(err)
			}
			forth = append(forth, found.Sequence)
		}
		for found, err := range reader.WalkBack(t.Context(), wire.StreamDLQ, f, edge) {
			if err != nil {
				t.Fatal(err)
			}
			back = append(back, found.Sequence)
		}
		slices.Reverse(back)
		if !slices.Equal(forth, back) || f.Provider == "fred" && len(back) != 4 {
			t.Errorf("%+v: %d forth, %d back", f, len(forth), len(back))
		}
		// A large stream is walked whole, and gives the same.
		large := edge
		large.Messages = 1 << 20
		var whole []uint64
		for found, err := range reader.Walk(t.Context(), wire.StreamDLQ, f, large) {
			if err != nil {
				t.Fatal(err)
			}
			whole = append(whole, found.Sequence)
		}
		if !slices.Equal(forth, whole) {
			t.Errorf("%+v: %d by its subject, %d of all", f, len(forth), len(whole))
		}
	}
}

// An item of review is found by the code that its request failed with, also where
// its letter had none; a letter that still waits is not.
func TestAnItemIsFoundByTheCodeOfItsAnswer(t *testing.T) {
	for _, c := range []struct {
		class  wire.Class
		code   fetchworker.Code
		stream string
		f      fetchworker.Code
		want   bool
	}{
		{wire.ClassTransient, "", wire.StreamReview, "retries_exhausted", true},
		{wire.ClassTransient, "", wire.StreamReview, "rejected", false},
		{wire.ClassPoison, "", wire.StreamReview, "poison", true},
		{wire.ClassPoison, "", wire.StreamReview, "retries_exhausted", false},
		{wire.ClassPermanent, "rejected", wire.StreamReview, "rejected", true},
		{wire.ClassPermanent, "rejected", wire.StreamReview, "retries_exhausted", false},
		{wire.ClassTransient, "", wire.StreamDLQ, "retries_exhausted", false},
		{wire.ClassPermanent, "rejected", wire.StreamDLQ, "rejected", true},
		{wire.ClassTransient, "", wire.StreamReview, "", true},
	} {
		l := letter("fmp", 1)
		l.Class, l.Code = c.class, c.code
		found := browse.Found{Letter: l, Stream: c.stream}
		if got := (browse.Filter{Code: c.f}).Selects(found); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
		if got := (browse.Filter{Code: c.f, Class: "pending"}).Selects(found); got {
			t.Errorf("%+v: only its code is looked at", c)
		}
	}
}

func TestAFilterChoosesByCause(t *testing.T) {
	l := letter("fmp", 1)
	l.Code = "rejected"
	group := browse.GroupOf(l).Number()
	for _, c := range []struct {
		f    browse.Filter
		want bool
	}{
		{browse.Filter{Error: "gone*"}, true},
		{browse.Filter{Error: "GONE*8"}, true},
		{browse.Filter{Error: "*port*"}, true},
		{browse.Filter{Error: "gone at port ?"}, true},
		{browse.Filter{Error: "gone at port ??"}, false},
		{browse.Filter{Error: "gone"}, false},
		{browse.Filter{Error: "*"}, true},
		{browse.Filter{Error: "*gone"}, false},
		{browse.Filter{HTTPStatus: 410}, true},
		{browse.Filter{HTTPStatus: 503}, false},
		{browse.Filter{Code: "rejected"}, true},
		{browse.Filter{Code: "poison"}, false},
		{browse.Filter{Group: group}, true},
		{browse.Filter{Group: group + 1}, false},
	} {
		if got := c.f.Matches(l); got != c.want {
			t.Errorf("%+v: %v", c.f, got)
		}
	}
	for name, edit := range map[string]func(*dlq.Letter){
		"provider": func(l *dlq.Letter) { l.Provider = "fred" }, "class": func(l *dlq.Letter) { l.Class = wire.ClassPoison },
		"error": func(l *dlq.Letter) { l.Error = "lost at port 8" }, "code": func(l *dlq.Letter) { l.Code = "poison" }, "status": func(l *dlq.Letter) { l.HTTPStatus = 503 },
	} {
		other := l
		if edit(&other); (browse.Filter{Group: group}).Matches(other) {
			t.Errorf("one of another %s is of the group", name)
		}
	}
	l.Error = "gone at port 9000" // another number is the same group
	if browse.GroupOf(l).Number() != group || group < 1000 {
		t.Errorf("group %d, then %d", group, browse.GroupOf(l).Number())
	}
}

// A look ends where it began to: what comes meanwhile is no part of it.
func TestALookEndsAtItsEdge(t *testing.T) {
	b := brokertest.Start(t)
	put := func(n int) {
		if _, err := b.JS.PublishMsg(t.Context(), letter("fmp", n).DeadLetter()); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		put(n)
	}
	reader := browse.New(b.NC)
	edge, err := reader.Edge(t.Context(), wire.StreamDLQ)
	if err != nil {
		t.Fatal(err)
	}
	put(3)
	for name, all := range map[string]iter.Seq2[record.Raw, error]{
		"the first":         reader.First(t.Context(), wire.StreamDLQ, "fetch.dlq.>", 1, edge, 10),
		"all":               reader.Messages(t.Context(), wire.StreamDLQ, "fetch.dlq.>", time.Time{}, edge),
		"all from one on":   reader.MessagesFrom(t.Context(), wire.StreamDLQ, "fetch.dlq.>", 1, edge),
		"all the other way": reader.Backwards(t.Context(), wire.StreamDLQ, "fetch.dlq.>", edge),
	} {
		n := 0
		for _, err := range all {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 3 {
			t.Errorf("%s: %d letters, of 3 that were there", name, n)
		}
	}
}

// A request that waits is shown as it is: until when it may, and whose it is.
func TestWhatWaitsIsShownAsItIs(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for body, ends := range map[string]time.Time{
		`{"id":"q-1"}`: {}, `{"id":"q-1","ttl":"10m"}`: at.Add(10 * time.Minute), `{"id":"q-1","deadline":"2026-11-30T13:00:00Z"}`: at.Add(time.Hour),
	} {
		l, err := browse.Queued(record.Raw{Subject: "fetch.request.fmp.batch.3.quote.alice", Sequence: 7, Time: at, Data: []byte(body)})
		if err != nil || !l.Deadline.Equal(ends) || l.ID != "q-1" || l.Agent != "alice" || l.Lane != fetchworker.LaneBatch || !l.RequestedAt.Equal(at) {
			t.Errorf("%s: %+v, %v", body, l, err)
		}
	}
}
