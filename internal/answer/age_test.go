package answer_test

import (
	"bytes"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"
)

// What cost no call goes after an hour, and its id can be used again; what cost
// one, waits for a person or was decided by one stays.
func TestARefusalThatCostNothingIsKeptAnHour(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		store := answer.New(record.New(b.JS, nil))
		ctx := t.Context()
		results, err := b.JS.Stream(ctx, fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		config := results.CachedInfo().Config
		if _, err := b.JS.UpdateStream(ctx, config); err != nil {
			t.Fatal(err)
		}
		called, discarded := failed(1, false), failed(2, false)
		called.Calls = 1
		ids := map[string]fetchworker.Answer{"refused": failed(1, false), "called": called, "review": failed(1, true), "discarded": discarded, "ok": ok(1)}
		for name, a := range ids {
			a.Identity.ID = name
			if _, _, err := store.Put(ctx, a, ""); err != nil {
				t.Fatal(err)
			}
		}
		stands := func(name string) bool {
			i := id
			i.ID = name
			s, err := store.Read(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			return s.Stands
		}
		time.Sleep(59 * time.Minute)
		if !stands("refused") {
			t.Error("a refusal went before its hour")
		}
		time.Sleep(3 * time.Minute)
		for name := range ids {
			if got, want := stands(name), name != "refused"; got != want {
				t.Errorf("%s stands after an hour: %t", name, got)
			}
		}
		a := ok(1)
		a.Identity.ID = "refused"
		if _, stored, err := store.Put(ctx, a, ""); err != nil || !stored {
			t.Errorf("the id again: %t %v", stored, err)
		}
	})
}

// TestPartsOutliveWhatNamesThem names one body again and again: each answer's
// parts are there to its end.
func TestPartsOutliveWhatNamesThem(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		store := answer.New(record.New(b.JS, nil))
		ctx := t.Context()
		s, err := b.JS.Stream(ctx, fetchworker.StreamBodies)
		if err != nil {
			t.Fatal(err)
		}
		results, err := b.JS.Stream(ctx, fetchworker.StreamResults)
		if err != nil {
			t.Fatal(err)
		}
		keep := results.CachedInfo().Config.MaxAge
		if slack := s.CachedInfo().Config.MaxAge - keep; slack < 2*wire.BodyReuse {
			t.Fatalf("bodies outlive answers by %v", slack)
		}
		a := ok(1)
		a.Body = bytes.Repeat([]byte("0123456789abcdef"), 80_000)
		var last uint64
		wrote := 0
		for n := range 4 {
			a.Identity.ID = strconv.Itoa(n)
			stands, _, err := store.Put(ctx, a, "")
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			for part := range stands.Claim.Parts {
				m, err := record.New(b.JS, nil).Last(ctx, fetchworker.StreamBodies, stands.Claim.Prefix+"."+strconv.Itoa(part+1))
				if err != nil {
					t.Fatal(err)
				}
				if left := m.Time.Add(s.CachedInfo().Config.MaxAge).Sub(now); left < keep {
					t.Errorf("part %d of answer %d goes %v before it", part+1, n, keep-left)
				}
				if part == 0 && m.Sequence != last {
					wrote, last = wrote+1, m.Sequence
				}
			}
			time.Sleep(7 * time.Hour)
		}
		if wrote != 2 {
			t.Errorf("the body was written %d times in a day", wrote)
		}
	})
}
