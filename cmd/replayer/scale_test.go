package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/operate"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// many is how many messages the tests of scale use: two thousand, or as many
// as FETCH_TEST_MESSAGES says; 100000 takes two minutes.
func many() int {
	if n, err := strconv.Atoi(os.Getenv("FETCH_TEST_MESSAGES")); err == nil {
		return n
	}
	return 2000
}

func fill(t *testing.T, b *brokertest.Broker, n int, message func(id string) *nats.Msg) {
	t.Helper()
	for i := range n {
		if _, err := b.JS.PublishMsgAsync(message("q-"+strconv.Itoa(i)), jetstream.WithStallWait(10*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	<-b.JS.PublishAsyncComplete()
}

func state(t *testing.T, b *brokertest.Broker, stream string) jetstream.StreamState {
	t.Helper()
	s, err := b.JS.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State
}

// Everything is listed, with as little memory for a hundred thousand as for a
// thousand, and soon.
func TestListStreamsAnyNumber(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(b.Stop)
	fill(t, b, many(), func(id string) *nats.Msg { return testLetter(id).ReviewItem() })
	for _, args := range [][]string{{"review", "list", "--json"}, {"review", "export", "--format", "csv"}, {"review", "list"}} {
		cmd := command(t, b.Server.URL(), args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, most := 0, 0
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			if strings.Contains(scanner.Text(), "alice") {
				lines++
			}
			if lines%100 == 0 { // until shortly before its end: what it cannot say at once keeps it alive
				most = max(most, peak(t, cmd.Process.Pid))
			}
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		t.Logf("%v: %d lines in %v, %d MB", args, lines, took, most)
		if lines != many() {
			t.Errorf("%v: %d lines, want %d", args, lines, many())
		}
		if took > 20*time.Second || most > 110 {
			t.Errorf("%v: %v, %d MB", args, took, most)
		}
	}
}

// peak is the most memory that a process has had so far, in MB; 0 where that
// cannot be known. Its resource usage would not do: the kernel counts from
// before the program starts, when the memory still is this test's own.
func peak(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kib int
	_, _ = fmt.Sscan(after, &kib) // it has ended: none
	return kib >> 10
}

// Killed halfway and run again, a requeue of everything has requeued each
// request once.
func TestARequeueThatIsKilledIsDoneOnceAndWhole(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(b.Stop)
	n := many()
	fill(t, b, n, func(id string) *nats.Msg { return testLetter(id).ReviewItem() })
	requeue := []string{"review", "requeue", "--all", "--rate", "0", "--yes", "--reason", "x", "--json"}
	killed := command(t, b.Server.URL(), requeue...)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	for state(t, b, wire.StreamReview).Msgs > uint64(n*3/4) {
		time.Sleep(5 * time.Millisecond)
	}
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait()
	// At most: what the dead process had sent may still be on its way.
	left := state(t, b, wire.StreamReview).Msgs
	if left == 0 {
		t.Fatal("it was done before it was killed")
	}
	began := time.Now()
	out, err := command(t, b.Server.URL(), requeue...).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var result resultLine
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &result); err != nil {
		t.Fatal(err)
	}
	letters, items := state(t, b, wire.StreamDLQ), state(t, b, wire.StreamReview)
	t.Logf("killed with %d of %d left; then %d more and %d only deleted in %v", left, n, result.Done, result.Superseded, time.Since(began))
	if letters.Msgs != uint64(n) || letters.LastSeq != uint64(n) || items.Msgs != 0 {
		t.Errorf("%d letters by %d writes, %d items left", letters.Msgs, letters.LastSeq, items.Msgs)
	}
	others := result.Superseded + result.Taken
	if worked := uint64(result.Done + others); worked > left || worked+operate.Parallel < left || others > operate.Parallel {
		t.Errorf("%+v", result)
	}
}

// Two operators at the same work share it: each request is requeued once,
// and what the other has taken is told, not an error.
func TestTwoOperatorsAtOnce(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(b.Stop)
	const n = 500
	fill(t, b, n, func(id string) *nats.Msg { return testLetter(id).ReviewItem() })
	results := make(chan error, 2)
	for range 2 {
		go func() {
			out, err := command(t, b.Server.URL(), "review", "requeue", "--all", "--yes", "--reason", "x").CombinedOutput()
			// One may find that the other was done with all of it.
			if err != nil && !strings.Contains(string(out), "nothing matched") {
				err = fmt.Errorf("%w: %s", err, out)
			} else {
				err = nil
			}
			results <- err
		}()
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	letters, items := state(t, b, wire.StreamDLQ), state(t, b, wire.StreamReview)
	if letters.Msgs != n || letters.LastSeq != n || items.Msgs != 0 {
		t.Errorf("%d letters by %d writes, %d items left", letters.Msgs, letters.LastSeq, items.Msgs)
	}
}

// With the fleet at work at the same time, killed again and again, each
// request is requeued and called once more, and once only.
func TestARequeueIsDoneOnceWhileTheFleetWorks(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(b.Stop)
	const n = 1000
	fill(t, b, n, func(id string) *nats.Msg { return testLetter(id).ReviewItem() })
	s := &stage{Broker: b, log: record.New(b.JS, nil), calls: map[string]int{}}
	stop, err := s.fleet("fmp", "none fails")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	requeue := []string{"review", "requeue", "--all", "--rate", "0", "--yes", "--reason", "x"}
	for kills := 0; state(t, b, wire.StreamReview).Msgs > 0; kills++ {
		cmd := command(t, b.Server.URL(), requeue...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kills < 5 {
			before := state(t, b, wire.StreamReview).Msgs
			for end := time.Now().Add(10 * time.Second); before < state(t, b, wire.StreamReview).Msgs+100 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
	}
	for end := time.Now().Add(30 * time.Second); state(t, b, fetchworker.StreamResults).Msgs < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d answers of %d", state(t, b, fetchworker.StreamResults).Msgs, n)
		}
	}
	stop()
	if letters := state(t, b, wire.StreamDLQ); letters.LastSeq != n {
		t.Errorf("%d requests were requeued by %d writes", n, letters.LastSeq)
	}
	if len(s.calls) != n {
		t.Errorf("%d requests were called, want %d", len(s.calls), n)
	}
	for id, calls := range s.calls {
		if calls != 1 {
			t.Errorf("%s was called %d times", id, calls)
		}
	}
}
