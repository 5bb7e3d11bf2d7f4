package operate_test

import (
	"errors"
	"fmt"
	"testing"

	"fetchworker"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
)

// A canary lets the rest go when enough of it have succeeded, and stops it as
// soon as they cannot any more, or its time is over; what came back to wait has
// failed, and what another life was answered is no answer.
func TestACanaryDecides(t *testing.T) {
	ok, stale, failed, none := fetchworker.StatusOK, fetchworker.StatusStale, fetchworker.StatusFailed, fetchworker.Status("")
	for name, c := range map[string]struct {
		action   string
		of       int // 0: 4
		answered []fetchworker.Status
		done     int
		want     operate.CanaryError // zero: the rest goes
	}{
		"all succeed":           {operate.ActReplay, 0, []fetchworker.Status{ok, stale, ok, ok}, 8, operate.CanaryError{}},
		"just enough":           {operate.ActReplay, 0, []fetchworker.Status{ok, ok, failed, failed}, 8, operate.CanaryError{}},
		"one too few":           {operate.ActReplay, 0, []fetchworker.Status{ok, failed, failed, failed}, 4, operate.CanaryError{Of: 4, Succeeded: 1, Failed: 3}},
		"enough of those there": {operate.ActReplay, 0, []fetchworker.Status{ok, ok, none, none}, 8, operate.CanaryError{}},
		"too few in time":       {operate.ActReplay, 0, []fetchworker.Status{ok, none, none, none}, 4, operate.CanaryError{Of: 4, Succeeded: 1, Open: 3}},
		"the life before":       {operate.ActRequeue, 0, nil, 4, operate.CanaryError{Of: 4, Open: 4}},
		"a canary of all":       {operate.ActReplay, 8, []fetchworker.Status{failed, failed}, 8, operate.CanaryError{}},
		"back again":            {operate.ActReplay, 1, nil, 1, operate.CanaryError{Of: 1, Failed: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			var first dlq.Letter
			for i := range 8 {
				l := letter(fmt.Sprint("q-", i))
				if i == 0 {
					first = l
				}
				if c.action == operate.ActRequeue {
					d.bury(l)
					continue
				}
				d.put(l)
				if i < len(c.answered) && c.answered[i] != none {
					a := fetchworker.Answer{Identity: l.Identity, Status: c.answered[i], Final: true, Generation: 1}
					if a.Status == failed {
						p := fetchworker.Failure(l.Identity, fetchworker.CodeNotFound, "")
						a.Problem = &p
					}
					d.answer(a)
				}
			}
			task := &operate.Task{Action: c.action, Canary: max(c.of, 4), MinSuccess: 0.5}
			if c.of == 1 {
				task.Canary = 1
			}
			plan := d.begin(task)
			watch := silent()
			if name == "back again" {
				watch.Did = func() {
					first.Calls, first.Failures = 5, 5
					d.put(first)
				}
			}
			result, err := task.Do(t.Context(), plan, watch)
			var stopped *operate.CanaryError
			if errors.As(err, &stopped) != (c.want.Of > 0) || err != nil && stopped == nil {
				t.Fatalf("%+v, %v", result, err)
			}
			if stopped != nil {
				c.want.Need = 0.5
				if *stopped != c.want {
					t.Errorf("%+v, want %+v", *stopped, c.want)
				}
			}
			if result.Fates[operate.FateDone] != c.done {
				t.Errorf("%+v, want %d done", result.Fates, c.done)
			}
		})
	}
}
