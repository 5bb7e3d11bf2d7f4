package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/operate"
	"fetchworker/internal/wire"
)

func fleetWide(f Facts) (found []Finding) {
	if f.Skew.Abs() > skewTold {
		found = append(found, Finding{
			Cause: CauseClock, Ill: true, Cure: "timedatectl set-ntp true",
			Says: fmt.Sprintf("the clock of this machine is %v off the server's, which is the one that counts: set the clock of whichever is wrong", f.Skew.Abs().Round(100*time.Millisecond)),
		})
	}
	if !f.Replayers {
		found = append(found, Finding{Cause: CauseNoReplayer, Ill: true, Says: "no replayer runs: what failed once waits for ever", Cure: "replayer run"})
	}
	for _, s := range f.Stores {
		if s.Stuck != "" {
			found = append(found, Finding{
				Cause: CauseStoreFull, Ill: true, Cure: "free space on the disk of nats-server's store_dir, then restart nats-server",
				Says: "the server could not write the store " + s.Name + ", and takes nothing for it until it is restarted: " + s.Stuck,
			})
			continue
		}
		if s.Limit > 0 && float64(s.Used) >= fullAt*float64(s.Limit) {
			what, cure := "the store "+s.Name, fmt.Sprintf("FETCH_STREAM_BYTES=%s=%d worker apply", s.Name, 2*s.Limit)
			if s.Name == Account {
				what, cure = "what the account may store", fmt.Sprintf("raise the account's max_file above %d in the server's configuration, and reload it", s.Limit)
			}
			found = append(found, Finding{
				Cause: CauseStoreFull, Ill: true, Cure: cure,
				Says: fmt.Sprintf("%s is full, %d of %d bytes: nothing is lost, and what needs it waits", what, s.Used, s.Limit),
			})
		}
	}
	if u := f.Unserved; u.Requests > 0 {
		found = append(found, Finding{
			Cause: CauseUnserved, Says: fmt.Sprintf("%s for %s, which nobody serves: they are answered so", many(u.Requests, "request is", "requests are"), few(u.Names)),
			Cure: "replayer status",
		})
	}
	return found
}

// ofProvider finds what is the matter with a provider. What stops it comes
// before what only slows it down, and only the first of these is told: the
// rest follows from it.
func ofProvider(f Facts, s operate.Status) (found []Finding) {
	add := func(cause Cause, ill bool, says, cure string) {
		found = append(found, Finding{Provider: s.Provider, Cause: cause, Ill: ill, Says: says, Cure: cure})
	}
	hold := f.Holds[s.Provider]
	work := s.Backlog+s.Letters > 0
	switch {
	case len(s.Workers) == 0 && hold.Retired:
	case len(s.Workers) == 0:
		if work || s.Served {
			add(CauseNoWorker, true, "no live worker serves it, and "+many(s.Backlog+s.Waiting, "request waits", "requests wait"), noWorkerCure(f, s.Provider))
		}
	case !s.PausedUntil.IsZero():
		add(CausePaused, true, fmt.Sprintf("paused by %s until %s: %s", s.PausedBy, s.PausedUntil.UTC().Format(time.TimeOnly+"Z"), s.PausedWhy),
			`replayer resume `+s.Provider+` --reason "…"`)
	case f.Refused[s.Provider] || mostly(f.Classes[s.Provider], wire.ClassUnauthorized):
		add(CauseKey, true, "the provider refuses the key", "worker check --try "+s.Provider+` OPERATION, with the right key; restart the workers with it; then replayer resume `+s.Provider+` --reason "key replaced"`)
	case s.Circuit != "closed" && s.CircuitCall == "" && s.CircuitAgent == "":
		add(CauseDown, true, "the provider is down: "+cmp.Or(s.CircuitWhy, "its circuit is open")+"; it is probed, and all goes by itself when it is back",
			`replayer resume `+s.Provider+` --reason "vendor says fixed", or wait`)
	case s.BytesLimit > 0 && s.BytesUsed >= s.BytesLimit:
		add(CauseQuota, true, fmt.Sprintf("the month's bytes are used up: %d of %d", s.BytesUsed, s.BytesLimit), "replayer usage --since 30d --provider "+s.Provider+" --by agent")
	case hold.Reason == fetchworker.ReasonQuota && hold.Limits != "":
		add(CauseQuota, true, "the limit "+hold.Limits+" that "+hold.By+" has set"+lasts(s)+" is used up until "+hold.Until.UTC().Format(time.DateTime+"Z")+mostBy(s), "replayer limit "+s.Provider+` default --reason "…", or wait`)
	case hold.Reason == fetchworker.ReasonQuota:
		add(CauseQuota, true, "the quota is gone until "+hold.Until.UTC().Format(time.DateTime+"Z")+mostBy(s), "replayer usage --since 0d --provider "+s.Provider+" --by agent")
	case hold.Reason == fetchworker.ReasonThrottled:
		add(CauseQuota, true, "the provider asked for a hold until "+hold.Until.UTC().Format(time.DateTime+"Z"), "replayer limit "+s.Provider+" "+slower(s)+` --for 2h --reason "429s", or wait`)
	default:
		found = append(found, slowed(f, s)...)
	}
	for _, o := range s.Operations {
		if o.Agent == "" && len(found) == 0 {
			add(CauseDown, true, "the endpoint "+o.Operation+" is down: "+cmp.Or(o.Why, "its circuit is open"), `replayer resume `+s.Provider+` --reason "vendor says fixed", or wait`)
		}
	}
	if bad, is := worst(f.Review[s.Provider]); is {
		add(CauseRequest, true, fmt.Sprintf("one request fails again and again: %s %s of %s, %d of %d items in review", bad.Operation, bad.Params, bad.Agent, bad.Count, bad.Of),
			fmt.Sprintf(`replayer review discard --provider %s --operation %s --agent %s --class %s --reason "…"`, s.Provider, bad.Operation, bad.Agent, bad.Class))
	} else if agent, why := alone(s); agent != "" && s.Backlog+s.Letters == 0 {
		add(CauseRequest, false, "what "+agent+" asked for failed again and again, and nothing of it is left: "+agent+"'s next call is tried, and ends this if it succeeds", `replayer resume `+s.Provider+` --reason "nothing of it is left", or wait for that call`)
	} else if agent != "" {
		add(CauseRequest, true, "what "+agent+" asks for fails again and again, and others' calls do not: "+why, "replayer list --provider "+s.Provider+" --agent "+agent)
	} else if s.Review > 0 {
		add(CauseReview, false, many(s.Review, "item waits", "items wait")+" for a person", "replayer review list --provider "+s.Provider)
	}
	if len(s.Unable) > 0 {
		add(CauseUnable, len(s.Unable) == len(s.Workers), "workers cannot call it: "+strings.Join(s.Unable, "; "), "replayer status --provider "+s.Provider)
	}
	if s.Foreign > 0 {
		add(CauseForeign, false, many(s.Foreign, "call that the provider counts is", "calls that the provider counts are")+" not ours: somebody else uses the key", "replayer usage --since 0d --provider "+s.Provider)
	}
	return found
}

// slowed finds what makes a provider that works slow, or useless.
func slowed(f Facts, s operate.Status) []Finding {
	takes := time.Duration(0)
	if !s.BacklogGone.IsZero() {
		takes = s.BacklogGone.Sub(f.At)
	}
	agents := f.Agents[s.Provider]
	agent, n, all := most(agents)
	switch {
	case n >= floodFrom && float64(n) >= floodShare*float64(all) && (takes > floodSlow || f.Most > 0 && float64(n) >= floodShare*float64(f.Most)):
		return []Finding{{
			Provider: s.Provider, Cause: CauseFlood, Ill: true,
			Says: fmt.Sprintf("%s has %d of the %d requests that wait%s; others' turns come before its next, and it has to ask for less", agent, n, all, inTime(takes)),
			Cure: fmt.Sprintf(`replayer pause %s --for 1m --reason "flood", then replayer cancel --provider %s --agent %s --reason "flood"`, s.Provider, s.Provider, agent),
		}}
	case takes > slowFrom:
		return []Finding{{
			Provider: s.Provider, Cause: CauseSlow, Ill: true,
			Says: fmt.Sprintf("%d requests wait%s: the limit %s is small for what is asked", s.Backlog, inTime(takes), limitsOf(s)),
			Cure: "replayer usage --since 0d --provider " + s.Provider + " --by agent",
		}}
	}
	if lately, when := ends(s); lately.Good+lately.Failed >= failingFrom && lately.Failed > lately.Good {
		return []Finding{{
			Provider: s.Provider, Cause: CauseFailing, Ill: true,
			Says: fmt.Sprintf("%d of %d answers %s are failures%s", lately.Failed, lately.Good+lately.Failed, when, topCause(s)),
			Cure: "replayer usage --since 0d --by cause --provider " + s.Provider,
		}}
	}
	return nil
}

// ends are a provider's final answers lately, as the workers that live tell
// them, and when that was. Only where none tells it is of the whole day: what
// failed this morning is not the matter this afternoon. No time: nobody counts.
func ends(s operate.Status) (e fleet.Ends, when string) {
	switch {
	case s.Recent != nil:
		return *s.Recent, "in the last 15 minutes"
	case s.Today != nil:
		return fleet.Ends{Good: s.Today.OK + s.Today.Cached + s.Today.Stale, Failed: s.Today.Failed}, "today"
	}
	return fleet.Ends{}, ""
}

// alone is the agent whose own circuit is open, and why; empty if none is.
func alone(s operate.Status) (agent, why string) {
	if s.CircuitAgent != "" {
		return s.CircuitAgent, s.CircuitWhy
	}
	for _, o := range s.Operations {
		if o.Agent != "" {
			return o.Agent, o.Operation + ": " + o.Why
		}
	}
	return "", ""
}

func flowing(f Facts, d Diagnosis) Answer {
	waiting, letters, oldest := 0, 0, time.Time{}
	for _, s := range f.Providers {
		letters += s.Letters
		for _, lane := range s.Lanes {
			waiting += lane.Waiting
			if !lane.Oldest.IsZero() && (oldest.IsZero() || lane.Oldest.Before(oldest)) {
				oldest = lane.Oldest
			}
		}
	}
	if x, is := d.found(CauseNoReplayer, CauseStoreFull, CauseNoWorker, CauseKey, CauseDown, CauseQuota, CausePaused, CauseFlood, CauseSlow); is {
		return Answer{false, named(x) + x.Says + d.alike(x)}
	}
	if waiting == 0 {
		text := "nothing waits in the queues"
		if letters > 0 {
			text += "; " + many(letters, "letter waits", "letters wait") + " for a retry"
		}
		return Answer{true, text}
	}
	return Answer{true, fmt.Sprintf("%s, the oldest since %v", many(waiting, "waits for its turn", "wait for their turn"), f.At.Sub(oldest).Round(time.Second))}
}

func succeeding(f Facts, d Diagnosis) Answer {
	var good, failed int64
	since := ""
	for _, s := range f.Providers {
		if lately, when := ends(s); when != "" {
			since = max(since, when) // today, where one provider's is: the later word of the two
			good, failed = good+lately.Good, failed+lately.Failed
		}
	}
	if x, is := d.found(CauseKey, CauseDown, CauseFailing, CauseRequest); is {
		return Answer{false, named(x) + x.Says}
	}
	switch {
	case since == "":
		return Answer{true, "nobody counts answers here: worker apply makes FETCH_USAGE"}
	case good+failed == 0:
		return Answer{true, "there was no answer " + since}
	}
	return Answer{true, fmt.Sprintf("%d of %d answers %s have what was asked for", good, good+failed, since)}
}

func fresh(f Facts) Answer {
	if f.Skew.Abs() > skewTold {
		return Answer{false, fmt.Sprintf("this machine and the server disagree about the time by %v", f.Skew.Abs().Round(100*time.Millisecond))}
	}
	return Answer{true, "the server answers, and its clock agrees with ours to " + max(f.Skew.Abs(), time.Millisecond).Round(time.Millisecond).String()}
}

// alike says of which other providers the same is told.
func (d Diagnosis) alike(x Finding) string {
	var others []string
	for _, y := range d.Findings {
		if y.Ill && y.Cause == x.Cause && y.Provider != x.Provider {
			others = append(others, y.Provider)
		}
	}
	if len(others) == 0 {
		return ""
	}
	return "; the like of " + few(others)
}

func named(x Finding) string {
	if x.Provider == "" {
		return ""
	}
	return x.Provider + ": "
}

func noWorkerCure(f Facts, provider string) string {
	if variable := f.Keyless[provider]; variable != "" {
		return variable + "=… worker"
	}
	return `worker, with its key; or, if it is gone for good, replayer retire ` + provider + ` --reason "…"`
}

// lasts says until when, and why, an operator's limits are in force.
func lasts(s operate.Status) (text string) {
	if !s.LimitsUntil.IsZero() {
		text = " until " + s.LimitsUntil.UTC().Format(time.TimeOnly+"Z")
	}
	if s.LimitsWhy != "" {
		text += " (" + s.LimitsWhy + ")"
	}
	return text
}

// slower are half of a provider's limits; where none is known a call a second.
func slower(s operate.Status) string {
	var half []string
	for _, p := range s.Permits {
		number, per, _ := strings.Cut(p.Limit, "/")
		if n, err := strconv.Atoi(number); err == nil && p.Group == "" {
			half = append(half, strconv.Itoa(max(n/2, 1))+"/"+per)
		}
	}
	return cmp.Or(strings.Join(half, ","), "60/min")
}

func mostBy(s operate.Status) string {
	if s.MostBy.Calls == 0 {
		return ""
	}
	return fmt.Sprintf("; most of today's calls, %d, were for %s", s.MostBy.Calls, s.MostBy.Agent)
}

func topCause(s operate.Status) string {
	if len(s.Causes) == 0 {
		return ""
	}
	return fmt.Sprintf(", most often %s of %s", s.Causes[0].Cause, s.Causes[0].Operation)
}

func limitsOf(s operate.Status) string {
	var all []string
	for _, p := range s.Permits {
		if p.Group == "" {
			all = append(all, p.Limit)
		}
	}
	return strings.Join(all, ",")
}

func inTime(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return ", " + d.Round(time.Second).String() + " at the present limit"
}

// most is who has most, and what all have.
func most(of map[string]int) (name string, n, all int) {
	for _, who := range slices.Sorted(maps.Keys(of)) {
		all += of[who]
		if of[who] > n {
			name, n = who, of[who]
		}
	}
	return name, n, all
}

func mostly(of map[wire.Class]int, class wire.Class) bool {
	all := 0
	for _, n := range of {
		all += n
	}
	return of[class] > 0 && 2*of[class] > all
}

func worst(asked []Asked) (Asked, bool) {
	for _, a := range asked {
		if a.Count >= badFrom && float64(a.Count) >= badShare*float64(a.Of) {
			return a, true
		}
	}
	return Asked{}, false
}

// many is a number with its words.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func few(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}
