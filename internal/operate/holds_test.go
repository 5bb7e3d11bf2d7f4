package operate_test

import (
	"errors"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/browse"
	"fetchworker/internal/budget/circuit"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/budget/store"
	"fetchworker/internal/operate"
)

// Letters of a provider that is paused go by themselves when the pause ends:
// there is nothing to replay. To cancel and to decide need no provider.
func TestAPauseStopsAReplayAndNothingElse(t *testing.T) {
	d := newDesk(t)
	if err := fleet.Pause(t.Context(), d.KV, "fmp", time.Now().Add(time.Hour), "bob", "an outage"); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{operate.ActReplay, operate.ActCancel, operate.ActRequeue, operate.ActDiscard} {
		l := letter(action)
		if action == operate.ActRequeue || action == operate.ActDiscard {
			d.bury(l)
		} else {
			d.put(l)
		}
		task := &operate.Task{Action: action, Filter: browse.Filter{ID: action}}
		plan := d.begin(task)
		result, err := task.Do(t.Context(), plan, silent())
		var held *operate.HoldError
		if stops := action == operate.ActReplay; errors.As(err, &held) != stops || !stops && result.Fates[operate.FateDone] != 1 || stops && (len(result.Fates) > 0 || held.Hold.By != "bob") {
			t.Errorf("%s: %+v, %v", action, result.Fates, err)
		}
	}
}

// What holds a provider up says whether its letters go by themselves.
func TestWhatStopsAReplay(t *testing.T) {
	d := newDesk(t)
	now := time.Now()
	open, err := circuit.Record{Circuit: circuit.Circuit{State: circuit.Open, OpenedAt: now, OpenUntil: now.Add(time.Hour), Why: "it fails"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.KV.Put(t.Context(), store.CircuitKey("open"), open); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fleet.Pause(t.Context(), d.KV, "paused", now.Add(time.Hour), "bob", ""), fleet.Retire(t.Context(), d.KV, "retired", "bob", "")); err != nil {
		t.Fatal(err)
	}
	f := d.fleet(d.open())
	defer f.Close()
	for provider, want := range map[string]operate.Hold{
		"open":    {Provider: "open", Reason: fetchworker.ReasonCircuitOpen, Stops: true},
		"paused":  {Provider: "paused", Reason: fetchworker.ReasonPaused, Stops: true, By: "bob"},
		"retired": {Provider: "retired", Reason: fetchworker.ReasonNoWorker, Retired: true},
		"nobodys": {Provider: "nobodys", Reason: fetchworker.ReasonNoWorker},
	} {
		h, held := f.Hold(provider)
		if wantUntil := want.Stops; wantUntil == h.Until.IsZero() {
			t.Errorf("%s: until %v", provider, h.Until)
		}
		if h.Until = (time.Time{}); !held || h != want {
			t.Errorf("%s: %+v, want %+v", provider, h, want)
		}
	}
}
