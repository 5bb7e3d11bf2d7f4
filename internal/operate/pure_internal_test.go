package operate

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"
)

func TestWhenCallsCanBegin(t *testing.T) {
	now := time.Now()
	for until, want := range map[time.Time]time.Time{{}: now, now.Add(-time.Hour): now, now.Add(time.Hour): now.Add(time.Hour)} {
		if got := (Hold{Until: until}).ends(now); !got.Equal(want) {
			t.Errorf("held until %v: %v", until, got)
		}
	}
	d := &Desk{skew: time.Hour} // the server's clock is ahead
	if ahead := time.Until(d.Now()); ahead < time.Hour-time.Minute {
		t.Errorf("by the server's clock it is %v later", ahead)
	}
}

// The canary is the first that were done: what another was faster with is none.
func TestACanaryIsOfWhatWasDone(t *testing.T) {
	c := counter{first: 2, fates: map[Fate]int{}}
	for i, fate := range []Fate{FateTaken, FateDone, FateDue, FateSuperseded, FateDone, FateDone} {
		c.add(browse.Found{Sequence: uint64(i)}, fate)
	}
	if len(c.canary) != 2 || c.canary[0].Sequence != 1 || c.canary[1].Sequence != 4 || c.fates[FateDone] != 3 || c.fates[FateTaken] != 1 {
		t.Errorf("%+v", c.canary)
	}
	for range 2 * failuresKept {
		c.fail(errors.New("x"))
	}
	if len(c.failures) != failuresKept {
		t.Errorf("%d failures are told", len(c.failures))
	}
}

// A sample is of the provider's own letters, whatever lies beside them.
func TestASampleIsOfItsOwn(t *testing.T) {
	b := brokertest.Start(t)
	log := record.New(b.JS, nil)
	for i := range 30 {
		l := dlq.Letter{Identity: fetchworker.Identity{Provider: []string{"fmp", "fmpx", "fred"}[i%3], Operation: "quote", Agent: "alice", ID: fmt.Sprint("q-", i)}, Lane: fetchworker.LaneBatch, Generation: 1, Class: wire.ClassTransient}
		if err := dlq.Put(t.Context(), log, l); err != nil {
			t.Fatal(err)
		}
	}
	f := &Fleet{desk: &Desk{JS: b.JS, Log: log}}
	for _, common := range []bool{true, false} {
		for from, most := range map[uint64]int{1: 7, 20: 3, 31: 0} {
			letters, err := f.place(t.Context(), "fetch.dlq.fmp.", from, common)
			if !common {
				most = min(most, 1)
			}
			if err != nil || len(letters) != most {
				t.Errorf("from %d, common %t: %d letters, want %d: %v", from, common, len(letters), most, err)
			}
			for _, l := range letters {
				if l.Provider != "fmp" {
					t.Errorf("from %d, common %t: one of %s", from, common, l.Provider)
				}
			}
		}
	}
}
