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
