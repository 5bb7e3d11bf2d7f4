package cancel

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"fetchworker"
)

// FuzzOrders: whatever an agent orders, an order that is taken reads the same
// when it is written again; a mark that has it cancels what it named, takes back
// nothing that was promised before, and stays bounded.
func FuzzOrders(f *testing.F) {
	for _, seed := range []string{
		`{"all":true}`, `{"all":true,"lane":"batch"}`, `{"all":true,"operation":"quote","lane":"interactive"}`, `{"operation":"quote","ids":["b","a","a"]}`, `{}`, `null`, `{"all":true,"ids":["q"]}`,
		`{"operation":"*","ids":["q"]}`, `{"all":true} {}`, `{"ALL":true}`, `{"all":true,"all":false}`,
	} {
		f.Add([]byte(seed), []byte(`{"named":"2026-11-30T12:00:00Z","all":[{"operation":"quote","before":"2026-11-30T12:00:00Z"},{"before":"2026-11-29T12:00:00Z"}]}`), int64(0))
		f.Add([]byte(seed), []byte(`{"all":[{"lane":"batch","before":"0001-01-01T00:00:00Z"}],"tell":"x"}`), int64(-60))
	}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body, stands []byte, after int64) {
		o, err := decodeOrder(body)
		var refusal *Refusal
		if err != nil {
			if !errors.As(err, &refusal) || refusal.Status != 400 {
				t.Fatalf("%s: %v", body, err)
			}
			return
		}
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeOrder(text)
		if len(o.IDs) == 0 {
			o.IDs = again.IDs // none is none
		}
		if err != nil || !reflect.DeepEqual(again, o) {
			t.Fatalf("%s became %s: %v", body, text, err)
		}
		var m Mark
		if json.Unmarshal(stands, &m) != nil || len(m.All) > mostBefores {
			return
		}
		before := now.Add(time.Duration(after%100_000) * time.Second)
		next, err := m.with(o, before, 72*time.Hour)
		if err != nil {
			if !errors.As(err, &refusal) || refusal.Status != 429 || len(m.All) < mostBefores {
				t.Fatalf("%s with %s: %v", stands, body, err)
			}
			return
		}
		if len(next.All) > mostBefores {
			t.Fatalf("%d operations are named", len(next.All))
		}
		for _, r := range requestsAround(o, m, before) {
			was, is := m.judge(r), next.judge(r)
			alive := before.Sub(r.Stored) < 72*time.Hour
			if alive && is < was {
				t.Fatalf("%s with %s: %+v was %v and is %v", stands, body, r, was, is)
			}
			if !r.Stored.Before(before) && is > was {
				t.Fatalf("%s with %s: %+v was stored after it and is %v", stands, body, r, is)
			}
			if o.All && r.Stored.Before(before) && (o.Operation == "" || o.Operation == r.Operation) && (o.Lane == "" || o.Lane == r.Lane) && is != Cancelled {
				t.Fatalf("%s with %s: %+v is %v", stands, body, r, is)
			}
			if !o.All && r.Stored.Before(before) && is == Goes {
				t.Fatalf("%s with %s: %+v is not looked for", stands, body, r)
			}
		}
		var read Mark
		if err := json.Unmarshal(next.encode(), &read); err != nil {
			return // a year that JSON cannot say
		}
		for _, r := range requestsAround(o, m, before) {
			if read.judge(r) != next.judge(r) {
				t.Fatalf("%+v is read as %+v", next, read)
			}
		}
	})
}

// requestsAround are requests of the operations, lanes and moments that an
// order and a mark name.
func requestsAround(o Order, m Mark, before time.Time) (all []Request) {
	moments, operations := []time.Time{before, m.Named}, []string{"quote", o.Operation}
	for _, b := range m.All {
		moments, operations = append(moments, b.Before), append(operations, b.Operation)
	}
	for _, at := range moments {
		for _, operation := range operations {
			for _, lane := range []fetchworker.Lane{fetchworker.LaneBatch, fetchworker.LaneInteractive} {
				for _, d := range []time.Duration{-time.Second, 0, time.Second} {
					all = append(all, Request{Identity: fetchworker.Identity{Operation: operation}, Lane: lane, Stored: at.Add(d)})
				}
			}
		}
	}
	return all
}

// A mark names what an agent has cancelled within a request's life and no more:
// who cancels other operations every day is never refused, and who names ever
// others within a day is, instead of growing its mark without end.
func TestAMarkForgetsWhatIsOver(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	m := Mark{}
	for day := range 1000 {
		var err error
		if m, err = m.with(Order{All: true, Operation: string(rune('a'+day%26)) + string(rune('a'+day/26%26))}, now.Add(time.Duration(day)*24*time.Hour), 72*time.Hour); err != nil || len(m.All) > 4 {
			t.Fatalf("on day %d: %d are named, %v", day, len(m.All), err)
		}
	}
	m = Mark{}
	refused := 0
	for n := range 200 {
		next, err := m.with(Order{All: true, Operation: "o" + string(rune('a'+n%26)) + string(rune('a'+n/26))}, now, 72*time.Hour)
		if err != nil {
			refused++
			continue
		}
		m = next
	}
	if len(m.All) != mostBefores || refused != 200-mostBefores {
		t.Errorf("%d are named, %d refused", len(m.All), refused)
	}
	if _, err := m.with(Order{All: true}, now, 72*time.Hour); err != nil {
		t.Errorf("all of them together: %v", err)
	}
}

// Of a lane and an operation that were cancelled, no other is.
func TestAMarkIsOfWhatItNames(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	request := func(operation string, lane fetchworker.Lane, stored time.Time) Request {
		return Request{Identity: fetchworker.Identity{Operation: operation}, Lane: lane, Stored: stored}
	}
	m := Mark{Named: at.Add(-time.Hour), All: []Before{{Operation: "quote", Lane: fetchworker.LaneBatch, Before: at}, {Operation: "profile", Before: at}}}
	for _, c := range []struct {
		r    Request
		want Verdict
	}{
		{request("quote", fetchworker.LaneBatch, at.Add(-1)), Cancelled},
		{request("quote", fetchworker.LaneBatch, at), Goes},
		{request("quote", fetchworker.LaneInteractive, at.Add(-1)), Goes},
		{request("profile", fetchworker.LaneInteractive, at.Add(-1)), Cancelled},
		{request("ratios", fetchworker.LaneBatch, at.Add(-1)), Goes},
		{request("ratios", fetchworker.LaneBatch, at.Add(-time.Hour-1)), Look},
		{request("ratios", fetchworker.LaneBatch, at.Add(-time.Hour)), Goes},
	} {
		if got := m.judge(c.r); got != c.want {
			t.Errorf("%+v: %v, want %v", c.r, got, c.want)
		}
	}
}
