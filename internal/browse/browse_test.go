package browse_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
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

// A copy that lags knows of no more than it has: a walk goes on to its edge all
// the same, for the leader says that there is more; and where nobody says whether
// there is, it is no walk to its end.
func TestAWalkGoesOnBehindACopyThatLags(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		var cable brokertest.Wire
		nc := b.ConnectThrough(t, &cable)
		defer nc.Close()
		reader, stored := browse.New(nc), 0
		put := func(many int) {
			for range many {
				if _, err := b.JS.PublishMsg(t.Context(), letter("fmp", stored).DeadLetter()); err != nil {
					t.Error(err)
				}
				stored++
			}
		}
		const get, leader = "DIRECT.GET." + wire.StreamDLQ, "STREAM.MSG.GET." + wire.StreamDLQ
		put(3)
		for name, walk := range map[string]func(edge browse.Edge) iter.Seq2[record.Raw, error]{
			"all": func(edge browse.Edge) iter.Seq2[record.Raw, error] {
				return reader.Messages(t.Context(), wire.StreamDLQ, "fetch.dlq.>", time.Time{}, edge)
			},
			"all from one on": func(edge browse.Edge) iter.Seq2[record.Raw, error] {
				return reader.MessagesFrom(t.Context(), wire.StreamDLQ, "fetch.dlq.>", 1, edge)
			},
			"all from a time on": func(edge browse.Edge) iter.Seq2[record.Raw, error] {
				return reader.Messages(t.Context(), wire.StreamDLQ, "fetch.dlq.>", time.Now().Add(-time.Hour), edge)
			},
			"all of somebody else": func(edge browse.Edge) iter.Seq2[record.Raw, error] {
				return reader.MessagesFrom(t.Context(), wire.StreamDLQ, "fetch.dlq.nobody.>", 1, edge)
			},
		} {
			// What the server said before the others were stored is what a copy that
			// lags says after that.
			cable.Break(get, brokertest.ReplyLate, 1, time.Second)
			edge := browse.Edge{Sequence: uint64(stored) + 2}
			time.AfterFunc(500*time.Millisecond, func() { put(4) })
			n, began := 0, time.Now()
			for _, err := range walk(edge) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				n++
			}
			synctest.Wait() // all are stored
			want := stored - 2
			if strings.HasSuffix(name, "else") {
				want = 0
			}
			if took := time.Since(began); n != want || took > 1200*time.Millisecond {
				t.Errorf("%s: %d letters of %d, after %v", name, n, want, took)
			}
		}
		edge := browse.Edge{Sequence: uint64(stored)}
		for name, lost := range map[string]string{"what the leader has": leader, "a page": get} {
			cable.Break(lost, brokertest.RequestLost, 1, 0)
			n := 0
			for _, err := range reader.MessagesFrom(t.Context(), wire.StreamDLQ, "fetch.dlq.>", 1, edge) {
				if err != nil {
					t.Fatalf("%s is asked for again: %v", name, err)
				}
				n++
			}
			if n != stored {
				t.Errorf("%s was lost once: %d letters of %d", name, n, stored)
			}
			cable.Break(lost, brokertest.RequestLost, 1<<20, 0)
			var failed error
			for _, err := range reader.MessagesFrom(t.Context(), wire.StreamDLQ, "fetch.dlq.nobody.>", 1, edge) {
				failed = err
			}
			if failed == nil {
				t.Errorf("%s is not known, and the walk has come to its end", name)
			}
			cable.Mend()
		}
	})
}

// However large what lies there is, it is read in pages that a server lets wait
// for one connection, and whole.
func TestAPageIsOfSoManyBytes(t *testing.T) {
	b := brokertest.Start(t)
	const many, bytes, most = 40, 200 << 10, 4 << 20 // twice as many bytes as a page has
	for n := range many {
		l := letter("fmp", n)
		l.Body = make([]byte, bytes)
		if _, err := b.JS.PublishMsg(t.Context(), l.DeadLetter()); err != nil {
			t.Fatal(err)
		}
	}
	var cable brokertest.Wire
	nc := b.ConnectThrough(t, &cable)
	defer nc.Close()
	cable.Break("DIRECT.GET."+wire.StreamDLQ, brokertest.ReplyLate, 1<<20, 0) // which only counts
	reader := browse.New(nc)
	edge, err := reader.Edge(t.Context(), wire.StreamDLQ)
	if err != nil {
		t.Fatal(err)
	}
	for name, all := range map[string]iter.Seq2[record.Raw, error]{
		"forth": reader.Messages(t.Context(), wire.StreamDLQ, "fetch.dlq.>", time.Time{}, edge),
		"back":  reader.Backwards(t.Context(), wire.StreamDLQ, "fetch.dlq.>", edge),
		"first": reader.First(t.Context(), wire.StreamDLQ, "fetch.dlq.>", 1, edge, 2*many),
	} {
		n, before := 0, cable.Met()
		for raw, err := range all {
			if err != nil {
				t.Fatal(err)
			}
			if n++; len(raw.Data) != bytes {
				t.Errorf("%s: %d bytes of %d", name, len(raw.Data), bytes)
			}
		}
		pages := cable.Met() - before
		if n != many || pages < many*bytes/most+1 {
			t.Errorf("%s: %d of %d, in %d pages", name, n, many, pages)
		}
	}
}

// The first are so many and no more.
func TestTheFirstAreSoMany(t *testing.T) {
	b := brokertest.Start(t)
	for n := range 5 {
		if _, err := b.JS.PublishMsg(t.Context(), letter("fmp", n).DeadLetter()); err != nil {
			t.Fatal(err)
		}
	}
	reader := browse.New(b.NC)
	for _, c := range []struct {
		from       uint64
		most, last int
	}{{1, 2, 2}, {1, 5, 5}, {1, 9, 5}, {4, 1, 4}, {4, 9, 5}, {6, 9, 0}} {
		n, last := 0, 0
		for raw, err := range reader.First(t.Context(), wire.StreamDLQ, "fetch.dlq.>", c.from, browse.Edge{Sequence: 9}, c.most) {
			if err != nil {
				t.Fatal(err)
			}
			n, last = n+1, int(raw.Sequence)
		}
		if n > c.most || last != c.last {
			t.Errorf("%+v: %d, the last is %d", c, n, last)
		}
	}
}

// Whatever a server says that is neither a message nor the end is an error, and
// nothing that was not there: no walk ends with it, and none goes on.
func TestWhatCannotBeReadIsNoEnd(t *testing.T) {
	b := brokertest.Start(t)
	var page atomic.Pointer[nats.Msg]
	sub, err := b.NC.Subscribe("$JS.API.DIRECT.GET.SAID", func(m *nats.Msg) { // of no stream that there is
		said := *page.Load()
		_ = m.RespondMsg(&said)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	status := func(code string, more ...string) *nats.Msg {
		h := nats.Header{"Status": {code}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return &nats.Msg{Header: h}
	}
	reader, edge := browse.New(b.NC), browse.Edge{Sequence: 9}
	walks := map[string]iter.Seq2[record.Raw, error]{
		"the first":         reader.First(t.Context(), "SAID", ">", 1, edge, 10),
		"all":               reader.Messages(t.Context(), "SAID", ">", time.Time{}, edge),
		"all the other way": reader.Backwards(t.Context(), "SAID", ">", edge),
	}
	walk := func(one iter.Seq2[record.Raw, error]) (n int, failed error) {
		for _, err := range one {
			if n++; err != nil {
				failed = err
			}
		}
		return n, failed
	}
	page.Store(status("404"))
	for name, one := range walks {
		n, err := walk(one)
		if name == "all" { // the leader is asked as well, and says that there is no such stream
			if !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Errorf("the leader refuses: %v", err)
			}
			continue
		}
		if n != 0 || err != nil {
			t.Errorf("%s of nothing: %d, %v", name, n, err)
		}
	}
	if at, err := reader.Edge(t.Context(), "SAID"); err == nil || at != (browse.Edge{}) {
		t.Errorf("the edge of nothing: %+v, %v", at, err)
	}
	for name, said := range map[string]*nats.Msg{
		"a refusal": status("408", "Description", "Bad Request"), "nothing": {}, "an end of unknown size": status("204"),
		"a message without its place": {Header: nats.Header{jetstream.StreamHeader: {"SAID"}}},
	} {
		page.Store(said)
		for of, one := range walks {
			if n, err := walk(one); n != 1 || err == nil {
				t.Errorf("%s, of %s: %d yielded, %v", name, of, n, err)
			}
		}
		if n, _, err := reader.Count(t.Context(), "SAID", ">"); n != 0 || err == nil {
			t.Errorf("%s: %d are counted, %v", name, n, err)
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
