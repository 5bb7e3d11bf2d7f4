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
