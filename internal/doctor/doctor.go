// Package doctor judges a fleet: are requests flowing, are they succeeding, is
// what is seen fresh? Where not, it names the likely cause and the command
// that cures it. Gather asks, Judge decides; it changes nothing.
package doctor

import (
	"slices"
	"strings"
	"time"

	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

// Cause is what is likely the matter.
type Cause string

// The causes.
const (
	CauseClock      Cause = "clock_skew"    // of this machine, or of the server
	CauseNoReplayer Cause = "no_replayer"   // letters wait for ever
	CauseStoreFull  Cause = "store_full"    // what needs the store waits; or the disk under it is full
	CauseNoWorker   Cause = "no_worker"     // nobody calls
	CauseKey        Cause = "wrong_key"     // the provider refuses it
	CauseDown       Cause = "provider_down" // or one of its endpoints
	CauseQuota      Cause = "quota_gone"    // calls or bytes
	CausePaused     Cause = "paused"        // by a person
	CauseFlood      Cause = "agent_flood"   // one agent's backlog
	CauseRequest    Cause = "bad_request"   // one thing that is asked for again and again fails: a symbol, say
	CauseSlow       Cause = "slow_backlog"  // the limit is small for what is asked
	CauseFailing    Cause = "failing"       // most of the answers lately are failures
	CauseUnable     Cause = "worker_unable" // a worker cannot call
	CauseForeign    Cause = "foreign_calls" // somebody else uses the key
	CauseReview     Cause = "review"        // items wait for a person
	CauseUnserved   Cause = "unserved"      // requests for what nobody serves
)

// Finding is one thing that is the matter.
type Finding struct {
	Provider string `json:"provider,omitempty"` // empty: the whole fleet
	Cause    Cause  `json:"cause"`
	Ill      bool   `json:"ill"`  // else it is only worth knowing
	Says     string `json:"says"` // what is seen
	Cure     string `json:"cure"` // the command
}

// Answer is one of the three questions, answered.
type Answer struct {
	Well bool   `json:"well"`
	Says string `json:"says"`
}

// Diagnosis is the verdict.
type Diagnosis struct {
	At         time.Time `json:"at"`
	Well       bool      `json:"well"`
	Flowing    Answer    `json:"flowing"`
	Succeeding Answer    `json:"succeeding"`
	Fresh      Answer    `json:"fresh"`
	Findings   []Finding `json:"findings"` // what is ill first
}

// Facts are what the verdict stands on.
type Facts struct {
	operate.Overview
	Holds   map[string]operate.Hold // by provider
	Refused map[string]bool         // whose key is refused
	Stores  []Store
	Agents  map[string]map[string]int // requests in the queues, by provider and agent
	Most    int                       // how many one agent may have; 0: not known
	Review  map[string][]Asked        // what items are about, of a sample, by provider
	Classes map[string]map[wire.Class]int
}

// Account is the name of what the account may store in all.
const Account = "account"

// Store is one stream and what it may hold.
type Store struct {
	Name        string // as an operator calls it: results
	Used, Limit int64  // bytes; no limit: 0
	Stuck       string // why the server writes nothing to it any more; empty if it does, or nobody may ask
}

// Asked is what the items of a sample have in common.
type Asked struct {
	Operation, Params, Agent string
	Class                    wire.Class
	Count, Of                int // of so many that were read
}

const (
	// skewTold is how far a clock may be off: below it nothing that is measured
	// in seconds goes wrong.
	skewTold = 2 * time.Second
	// fullAt is the share of a store from which it counts as full: large
	// messages are refused before the last byte.
	fullAt = 0.97
	// floodFrom is how many requests one agent has waiting at least, and
	// floodShare of all, to be called a flood.
	floodFrom  = 100
	floodShare = 0.8
	// slowFrom is how long a backlog needs at least to be told, floodSlow where
	// it is one agent's.
	slowFrom  = 15 * time.Minute
	floodSlow = time.Minute
	// badFrom is how many items are about the same at least, and badShare of
	// those that were read.
	badFrom  = 3
	badShare = 0.6
	// failingFrom is how many answers there are at least before
	// their share is believed.
	failingFrom = 20
)

// Judge decides what the facts mean.
func Judge(f Facts) Diagnosis {
	d := Diagnosis{At: f.At, Findings: []Finding{}}
	d.Findings = append(d.Findings, fleetWide(f)...)
	for _, s := range f.Providers {
		d.Findings = append(d.Findings, ofProvider(f, s)...)
	}
	slices.SortStableFunc(d.Findings, func(a, b Finding) int {
		switch {
		case a.Ill == b.Ill:
			return 0
		case a.Ill:
			return -1
		}
		return 1
	})
	d.Well = !slices.ContainsFunc(d.Findings, func(x Finding) bool { return x.Ill })
	d.Flowing, d.Succeeding, d.Fresh = flowing(f, d), succeeding(f, d), fresh(f)
	return d
}

// found reports whether one of the causes is among the findings.
func (d Diagnosis) found(causes ...Cause) (Finding, bool) {
	i := slices.IndexFunc(d.Findings, func(x Finding) bool { return x.Ill && slices.Contains(causes, x.Cause) })
	if i < 0 {
		return Finding{}, false
	}
	return d.Findings[i], true
}

// Paused reports whether people's pauses are all that is ill.
func (d Diagnosis) Paused() bool {
	return !d.Well && !slices.ContainsFunc(d.Findings, func(x Finding) bool { return x.Ill && x.Cause != CausePaused })
}

// Told are the findings for a screen: one pause of several providers is told
// once.
func (d Diagnosis) Told() (told []Finding) {
	alike := map[string][]string{} // what is said of which providers
	for _, x := range d.Findings {
		if x.Cause == CausePaused {
			alike[x.Says] = append(alike[x.Says], x.Provider)
		}
	}
	for _, x := range d.Findings {
		if x.Cause != CausePaused {
			told = append(told, x)
			continue
		}
		names := alike[x.Says]
		delete(alike, x.Says)
		switch len(names) {
		case 0: // told already
			continue
		case 1:
		default:
			x.Cure = "replayer resume " + strings.Join(names, " ") + ` --reason "…"`
			x.Says, x.Provider = strings.Join(names[:len(names)-1], ", ")+" and "+names[len(names)-1]+" are "+x.Says, ""
		}
		told = append(told, x)
	}
	return told
}
