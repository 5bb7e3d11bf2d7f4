package fetchworker

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What is looked up late is not told after what is newer, and a watch that has
// ended is looked up no more.
func TestAnOlderAnswerIsNotToldAfterANewer(t *testing.T) {
	c := &Client{agent: "alice"}
	w := newWatcher(c)
	var told []uint64
	one := newWatch(Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}, func(a Answer, _ error) { told = append(told, a.Sequence) })
	w.watches[one.subject] = map[*watch]struct{}{one: {}}
	for _, sequence := range []uint64{5, 4, 5, 7} {
		w.tell(one.subject, Answer{Sequence: sequence})
	}
	if len(told) != 2 || told[0] != 5 || told[1] != 7 {
		t.Errorf("told %v", told)
	}
}

func TestAWatchThatHasEndedIsNotDue(t *testing.T) {
	c := &Client{agent: "alice"}
	w := newWatcher(c)
	w.running = true // nobody looks
	var all []*watch
	for range 10 {
		one := newWatch(Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: NewID()}, func(Answer, error) {})
		w.watches[one.subject] = map[*watch]struct{}{one: {}}
		w.expect(one)
		all = append(all, one)
	}
	for _, one := range all[:7] {
		w.remove(one)
	}
	if len(w.due) != 3 || len(w.watches) != 3 {
		t.Errorf("%d are due, %d watched, of 3", len(w.due), len(w.watches))
	}
}

// What comes live and is not what its sum says is looked up, not handed out.
func TestAGarbledLiveAnswer(t *testing.T) {
	id := Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	m := Answer{Identity: id, Status: StatusOK, Final: true, Body: []byte("[1]"), Time: time.Now()}.Encode()
	m.Header[jetstream.SequenceHeader] = []string{"7"}
	live := &nats.Msg{Subject: ResultSubject(id), Header: m.Header, Data: m.Data}
	if a, err := decodeLive(live.Subject, live); err != nil || a.Sequence != 7 || string(a.Body) != "[1]" {
		t.Fatalf("%+v, %v", a, err)
	}
	live.Data = []byte("[2]")
	if a, err := decodeLive(live.Subject, live); !errors.Is(err, ErrBodyCorrupt) || a.Body != nil {
		t.Errorf("%+v, %v", a, err)
	}
}

// What comes in the moment a wait ends is taken: it is there, and nobody else takes it.
func TestWhatComesAsAWaitEndsIsTaken(t *testing.T) {
	for range 20 {
		a := newArrivals[int]()
		ctx, end := context.WithCancel(t.Context())
		got := make(chan int)
		go func() {
			v, _ := a.next(ctx)
			got <- v
		}()
		runtime.Gosched() // it waits, mostly
		a.mu.Lock()
		end()
		a.list = append(a.list, 7)
		a.mu.Unlock()
		if v := <-got; v != 7 && a.size() == 0 {
			t.Fatalf("%d was taken", v)
		} else if v != 7 {
			t.Fatal("what came is left")
		}
	}
}
