package operate_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"fetchworker/internal/broker"

	"github.com/nats-io/nats.go/jetstream"
)

// Status is counted and not read: as soon with a million letters as with a
// thousand. FETCH_TEST_MESSAGES says how many; 20,000 by default.
func TestStatusIsCounted(t *testing.T) {
	d := newDesk(t)
	n := 20_000
	if many, err := strconv.Atoi(os.Getenv("FETCH_TEST_MESSAGES")); err == nil {
		n = many
	}
	if err := broker.ServeProvider(t.Context(), d.JS, "fmp", broker.Held(120)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		l := letter("q-" + strconv.Itoa(i))
		if i%4 == 0 {
			l.NotBefore = time.Now().Add(-time.Minute) // due
		}
		if _, err := d.JS.PublishMsgAsync(l.DeadLetter(), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-d.JS.PublishAsyncComplete()
	f := d.fleet(d.open())
	defer f.Close()
	began := time.Now()
	survey, err := f.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	surveyed := time.Since(began)
	s, err := f.Status(t.Context(), "fmp", map[[2]string]int{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d letters: %v, of them the survey %v; about %d wait, %d are due", n, time.Since(began), surveyed, s.Waiting, s.Due)
	for range 3 {
		began := time.Now()
		if _, err := f.Survey(t.Context()); err != nil {
			t.Fatal(err)
		}
		surveyed := time.Since(began)
		again, err := f.Status(t.Context(), "fmp", map[[2]string]int{})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("again: %v, of them the survey %v; about %d wait", time.Since(began), surveyed, again.Waiting)
	}
	if s.Letters != n || !s.Sampled || s.Due < n/10 || s.Due > n*4/10 || len(survey.Providers) != 1 {
		t.Errorf("%+v, %v", s, survey)
	}
	if took := time.Since(began); took > 3*time.Second { // a stalled machine may take longer than the 300 ms that it needs
		t.Errorf("it took %v", took)
	}
	for range 3 {
		began := time.Now()
		all, err := f.Overview(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the overview: %v", time.Since(began))
		if len(all.Providers) != 1 || all.Providers[0].Letters != n || all.Replayers {
			t.Errorf("%+v", all)
		}
	}
}
