package wire_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// A list ends, and tells all that can be told, also where two subjects come as
// the same text. FETCH_TEST_MESSAGES is how many others there are: of more than
// 100,000 the server tells a page at a time.
func TestAListEnds(t *testing.T) {
	b := brokertest.Start(t)
	if _, err := b.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LISTED", Subjects: []string{"listed.>"}, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	many := 7
	if n, err := strconv.Atoi(os.Getenv("FETCH_TEST_MESSAGES")); err == nil {
		many = n
	}
	for _, subject := range []string{"listed.\xff\xfe", "listed.\xc0\xaf", "listed.\xfe\xff", "listed.\x1b", "listed.twice", "listed.twice"} {
		if _, err := b.JS.Publish(t.Context(), subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		if _, err := b.JS.PublishAsync(fmt.Sprint("listed.n.", i), nil, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-b.JS.PublishAsyncComplete()
	for filter, want := range map[string]int{"listed.>": many + 3, "listed.n.>": many, "listed.*": 3, "listed.none": 0} {
		listed, err := wire.List(t.Context(), b.NC, "LISTED", filter)
		if err != nil || len(listed.Subjects) != want || listed.Msgs != uint64(many)+6 {
			t.Errorf("%s: %d subjects of %d messages, want %d: %v", filter, len(listed.Subjects), listed.Msgs, want, err)
		}
		if want == 3 && (listed.Subjects["listed.twice"] != 2 || listed.Subjects["listed.\x1b"] != 1) {
			t.Errorf("%v", listed.Subjects)
		}
	}
	if listed, err := wire.List(t.Context(), b.NC, "NONE", ">"); err == nil {
		t.Errorf("what is not there is listed: %v", listed)
	}
}

// Whether a stream is empty is told of each, and not of one that is not there or
// cannot be asked.
func TestWhetherAStreamIsEmpty(t *testing.T) {
	b := brokertest.Start(t)
	s, err := b.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILLED", Subjects: []string{"filled.>"}, Storage: jetstream.MemoryStorage, AllowDirect: true})
	if err != nil {
		t.Fatal(err)
	}
	look := func(when string, want bool) {
		t.Helper()
		if empty, err := wire.Empty(t.Context(), b.NC, "FILLED"); empty != want || err != nil {
			t.Errorf("%s: empty %t, %v", when, empty, err)
		}
	}
	look("at first", true)
	for i := range 3 {
		if _, err := b.JS.Publish(t.Context(), fmt.Sprint("filled.", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	look("filled", false)
	for i := range 3 {
		look("some are left", false)
		if err := s.DeleteMsg(t.Context(), uint64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	look("all are gone", true)
	if empty, err := wire.Empty(t.Context(), b.NC, "NONE"); empty || err == nil {
		t.Errorf("what is not there is empty: %t, %v", empty, err)
	}
	for _, c := range []struct {
		of   *jetstream.ClusterInfo
		want bool
	}{
		{nil, true},
		{&jetstream.ClusterInfo{Leader: "a"}, true},
		{s.CachedInfo().Cluster, true},
		{&jetstream.ClusterInfo{Name: "c", Leader: "a"}, false},
		{&jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "b"}}}, false},
	} {
		if got := wire.Alone(c.of); got != c.want {
			t.Errorf("%+v: alone %t", c.of, got)
		}
	}
}
