package doctor_test

import (
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/doctor"
	"fetchworker/internal/operate"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// well are the facts of a fleet that has nothing the matter.
func well() doctor.Facts {
	return doctor.Facts{
		Overview: operate.Overview{At: now, Replayers: true, Providers: []operate.Status{{
			Provider: "fmp", At: now, Served: true, Workers: []string{"w-1", "w-2"}, Circuit: "closed",
			Lanes: []operate.LaneStatus{{Lane: "interactive", Waiting: 3, Oldest: now.Add(-time.Second)}},
			Today: &operate.Used{OK: 95, Failed: 5}, Backlog: 3,
		}}},
		Holds: map[string]operate.Hold{}, Stores: []doctor.Store{{Name: "results", Used: 10, Limit: 100}},
	}
}

func TestEachConditionHasItsCauseAndItsCure(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func(f *doctor.Facts, s *operate.Status)
		cause doctor.Cause // empty: all is well
		cure  string
	}{
		{"all well", func(*doctor.Facts, *operate.Status) {}, "", ""},
		{"the clock here is behind", func(f *doctor.Facts, _ *operate.Status) { f.Skew = time.Minute }, doctor.CauseClock, "timedatectl"},
		{"the clock here is ahead", func(f *doctor.Facts, _ *operate.Status) { f.Skew = -time.Minute }, doctor.CauseClock, "timedatectl"},
		{"a clock that is a little off", func(f *doctor.Facts, _ *operate.Status) { f.Skew = time.Second }, "", ""},
		{"no replayer", func(f *doctor.Facts, _ *operate.Status) { f.Replayers = false }, doctor.CauseNoReplayer, "replayer run"},
		{"a store is full", func(f *doctor.Facts, _ *operate.Status) { f.Stores[0].Used = 98 }, doctor.CauseStoreFull, "FETCH_STREAM_BYTES=results=200 worker apply"},
		{"no worker", func(_ *doctor.Facts, s *operate.Status) { s.Workers = nil }, doctor.CauseNoWorker, "replayer retire fmp"},
		{"no worker has the key", func(f *doctor.Facts, s *operate.Status) {
			s.Workers, f.Keyless = nil, map[string]string{"fmp": "FMP_API_KEY"}
		}, doctor.CauseNoWorker, "FMP_API_KEY=… worker"},
		{"retired", func(f *doctor.Facts, s *operate.Status) {
			s.Workers, f.Holds["fmp"] = nil, operate.Hold{Retired: true}
		}, "", ""},
		{"named by a typing error only", func(_ *doctor.Facts, s *operate.Status) {
			*s = operate.Status{Provider: "fpm", Circuit: "closed"}
		}, "", ""},
		{"down", func(_ *doctor.Facts, s *operate.Status) { s.Circuit = "open" }, doctor.CauseDown, "replayer resume fmp"},
		{"one endpoint down", func(_ *doctor.Facts, s *operate.Status) {
			s.Operations = []operate.OpenStatus{{Operation: "quote", Circuit: "open"}}
		}, doctor.CauseDown, "replayer resume fmp"},
		{"one agent's calls fail", func(_ *doctor.Facts, s *operate.Status) {
			s.Operations = []operate.OpenStatus{{Operation: "quote", Circuit: "open", Agent: "bob"}}
		}, doctor.CauseRequest, "--agent bob"},
		{"wrong key", func(f *doctor.Facts, s *operate.Status) {
			s.Circuit, f.Refused = "open", map[string]bool{"fmp": true}
		}, doctor.CauseKey, "worker check --try fmp"},
		{"calls used up", func(f *doctor.Facts, _ *operate.Status) {
			f.Holds["fmp"] = operate.Hold{Reason: fetchworker.ReasonQuota, Until: now.Add(time.Hour)}
		}, doctor.CauseQuota, "replayer usage"},
		{"an operator's limit used up", func(f *doctor.Facts, s *operate.Status) {
			f.Holds["fmp"] = operate.Hold{Reason: fetchworker.ReasonQuota, Until: now.Add(time.Minute), By: "olga", Limits: "20/h"}
		}, doctor.CauseQuota, "replayer limit fmp default"},
		{"a hold that was asked for", func(f *doctor.Facts, s *operate.Status) {
			f.Holds["fmp"] = operate.Hold{Reason: fetchworker.ReasonThrottled, Until: now.Add(time.Hour)}
			s.Permits = []operate.PermitStatus{{Limit: "100/d"}, {Limit: "1/s"}, {Limit: "9/s", Group: "news"}}
		}, doctor.CauseQuota, "replayer limit fmp 50/d,1/s --for 2h"},
		{"a hold where no limit is known", func(f *doctor.Facts, _ *operate.Status) {
			f.Holds["fmp"] = operate.Hold{Reason: fetchworker.ReasonThrottled, Until: now.Add(time.Hour)}
		}, doctor.CauseQuota, "replayer limit fmp 60/min --for 2h"},
		{"one agent's calls failed, and nothing is left", func(_ *doctor.Facts, s *operate.Status) {
			*s = operate.Status{Provider: "fmp", Served: true, Workers: []string{"w-1"}, Circuit: "open", CircuitAgent: "alice", CircuitWhy: "HTTP 500"}
		}, "", ""},
		{"bytes used up", func(_ *doctor.Facts, s *operate.Status) { s.BytesUsed, s.BytesLimit = 5, 5 }, doctor.CauseQuota, "replayer usage"},
		{"a flood, no limit known, the backlog near what one may have", func(f *doctor.Facts, _ *operate.Status) {
			f.Most, f.Agents = 1000, map[string]map[string]int{"fmp": {"mallory": 900, "alice": 3}}
		}, doctor.CauseFlood, "--agent mallory"},
		{"a crowd that is gone at once", func(f *doctor.Facts, _ *operate.Status) {
			f.Most, f.Agents = 20000, map[string]map[string]int{"fmp": {"alice": 900}}
		}, "", ""},
		{"a long backlog", func(_ *doctor.Facts, s *operate.Status) {
			s.Backlog, s.BacklogGone = 9000, now.Add(time.Hour)
		}, doctor.CauseSlow, "replayer usage"},
		{"one bad symbol", func(f *doctor.Facts, s *operate.Status) {
			s.Review, f.Review = 10, map[string][]doctor.Asked{"fmp": {{Operation: "quote", Params: "{}", Agent: "bob", Class: "permanent", Count: 8, Of: 10}}}
		}, doctor.CauseRequest, "replayer review discard --provider fmp --operation quote --agent bob --class permanent"},
		{"the disk under a store is full", func(f *doctor.Facts, _ *operate.Status) {
			f.Stores = append(f.Stores, doctor.Store{Name: "requests", Stuck: "no space left on device"})
		}, doctor.CauseStoreFull, "restart nats-server"},
		{"most answers are failures", func(_ *doctor.Facts, s *operate.Status) { s.Today.OK = 1; s.Today.Failed = 80 }, doctor.CauseFailing, "--by cause"},
		{"most answers lately are failures, of a good day", func(_ *doctor.Facts, s *operate.Status) {
			s.Today.OK, s.Recent = 90_000, &fleet.Ends{Good: 3, Failed: 40}
		}, doctor.CauseFailing, "--by cause"},
		{"what failed this morning", func(_ *doctor.Facts, s *operate.Status) {
			s.Today.Failed, s.Recent = 90_000, &fleet.Ends{Good: 40, Failed: 3}
		}, "", ""},
		{"nothing lately, after a bad morning", func(_ *doctor.Facts, s *operate.Status) {
			s.Today.Failed, s.Recent = 90_000, &fleet.Ends{}
		}, "", ""},
		{"nobody counts", func(_ *doctor.Facts, s *operate.Status) { s.Today = nil }, "", ""},
		{"no worker can call", func(_ *doctor.Facts, s *operate.Status) { s.Unable = []string{"w-1: far", "w-2: far"} }, doctor.CauseUnable, "replayer status"},
		{"one worker cannot", func(_ *doctor.Facts, s *operate.Status) { s.Unable = []string{"w-1: far"} }, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := well()
			c.make(&f, &f.Providers[0])
			d := doctor.Judge(f)
			if c.cause == "" {
				if !d.Well || !d.Flowing.Well || !d.Succeeding.Well || !d.Fresh.Well {
					t.Errorf("%+v", d)
				}
				return
			}
			if d.Well || len(d.Findings) == 0 || d.Findings[0].Cause != c.cause || !strings.Contains(d.Findings[0].Cure, c.cure) {
				t.Errorf("%+v, want %s and %q", d, c.cause, c.cure)
			}
			if d.Flowing.Well && d.Succeeding.Well && d.Fresh.Well && c.cause != doctor.CauseUnable {
				t.Errorf("all three questions are answered with yes: %+v", d)
			}
		})
	}
}

// One is not several.
func TestOneIsToldAsOne(t *testing.T) {
	for n, want := range map[int]string{1: "1 item waits for a person", 2: "2 items wait for a person"} {
		f := well()
		f.Providers[0].Review = n
		d := doctor.Judge(f)
		if !d.Well || len(d.Findings) != 1 || d.Findings[0].Says != want {
			t.Errorf("%+v", d.Findings)
		}
	}
}

// What was not answered is told with the time that it is about.
func TestNoAnswerIsToldWithItsTime(t *testing.T) {
	for want, recent := range map[string]*fleet.Ends{
		"there was no answer in the last 15 minutes": {},
		"there was no answer today":                  nil,
	} {
		f := well()
		f.Providers[0].Today, f.Providers[0].Recent = &operate.Used{}, recent
		if said := doctor.Judge(f).Succeeding.Says; said != want {
			t.Errorf("%q, not %q", said, want)
		}
	}
}

// What nothing is left of is told, and how it ends.
func TestACircuitWithNothingLeftToProbeWith(t *testing.T) {
	f := well()
	f.Providers[0] = operate.Status{Provider: "fmp", Served: true, Workers: []string{"w-1"}, Circuit: "open", CircuitAgent: "alice", CircuitWhy: "HTTP 500"}
	d := doctor.Judge(f)
	if !d.Well || len(d.Findings) != 1 || d.Findings[0].Ill || !strings.Contains(d.Findings[0].Says, "nothing of it is left") || !strings.Contains(d.Findings[0].Cure, "replayer resume fmp") {
		t.Errorf("%+v", d)
	}
	f.Providers[0].Letters = 1
	if d = doctor.Judge(f); d.Well || !strings.Contains(d.Findings[0].Cure, "--agent alice") {
		t.Errorf("with a letter left: %+v", d)
	}
}

// What waits as a letter is told where the queues are empty.
func TestEmptyQueuesAreNotAllThatWaits(t *testing.T) {
	f := well()
	f.Providers[0].Lanes, f.Providers[0].Letters = nil, 2
	if d := doctor.Judge(f); d.Flowing.Says != "nothing waits in the queues; 2 letters wait for a retry" {
		t.Errorf("%+v", d.Flowing)
	}
	f.Providers[0].Letters = 0
	if d := doctor.Judge(f); d.Flowing.Says != "nothing waits in the queues" {
		t.Errorf("%+v", d.Flowing)
	}
}

// One pause of several providers is told once on a screen, and is a pause and
// no illness only where nothing else is the matter.
func TestOnePauseOfManyIsToldOnce(t *testing.T) {
	f := well()
	f.Providers = nil
	for _, p := range []string{"fmp", "fred", "polygon"} {
		f.Providers = append(f.Providers, operate.Status{
			Provider: p, Served: true, Workers: []string{"w-1"}, Circuit: "closed", PausedUntil: now.Add(time.Hour), PausedBy: "olga", PausedWhy: "the network moves",
		})
	}
	f.Providers[2].PausedWhy = "maintenance"
	d := doctor.Judge(f)
	told := d.Told()
	if len(d.Findings) != 3 || len(told) != 2 || !d.Paused() {
		t.Fatalf("%+v", told)
	}
	if x := told[0]; x.Provider != "" || x.Says != "fmp and fred are paused by olga until 13:00:00Z: the network moves" || x.Cure != `replayer resume fmp fred --reason "…"` {
		t.Errorf("%+v", x)
	}
	if x := told[1]; x.Provider != "polygon" || x != d.Findings[2] {
		t.Errorf("%+v", x)
	}
	if want := "fmp: paused by olga until 13:00:00Z: the network moves; the like of fred, polygon"; d.Flowing.Says != want {
		t.Errorf("%s", d.Flowing.Says)
	}
	f.Replayers = false
	if d = doctor.Judge(f); d.Paused() || len(d.Told()) != 3 {
		t.Errorf("without a replayer: %+v", d.Told())
	}
	if d = doctor.Judge(well()); d.Paused() {
		t.Error("all well is no pause")
	}
}
