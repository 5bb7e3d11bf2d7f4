package circuit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	start  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	policy = Policy{Failures: 3, Open: time.Minute}
)

// call reads "agent operation key".
func call(t interface{ Fatalf(string, ...any) }, text string) Call {
	words := strings.Fields(text)
	if len(words) != 3 {
		t.Fatalf("not a call: %q", text)
	}
	return Call{Agent: words[0], Operation: words[1], Key: words[1] + "/" + words[2]}
}

var outcomes = map[string]Outcome{"ok": Success, "500": Failure, "refused": Unreached, "401": Unauthorized, "odd": Odd, "429": Throttled}

// play plays calls in order, a second apart: "alice quote A 500".
func play(t *testing.T, r Record, story ...string) Record {
	t.Helper()
	began := start
	for _, at := range []time.Time{r.LastFailure, r.LastSuccess} { // it goes on
		if at.After(began) {
			began = at
		}
	}
	for i, line := range story {
		words := strings.Fields(line)
		c, o := call(t, strings.Join(words[:3], " ")), outcomes[words[3]]
		now := began.Add(time.Duration(i+1) * time.Second)
		if o == Success {
			r = r.Succeeded(c, now)
			continue
		}
		r = r.Failed(c, o, now, policy)
	}
	return r
}

// open tells what is open: "quote", "quote for alice", "provider", "provider
// for alice", "provider for alice's quote/A".
func open(r Record) []string {
	scope := func(name string, c Circuit) string {
		switch {
		case c.Call != "":
			return fmt.Sprintf("%s for %s's %s", name, c.Agent, c.Call)
		case c.Agent != "":
			return name + " for " + c.Agent
		}
		return name
	}
	all := []string{}
	if r.Held() {
		all = append(all, scope("provider", r.Circuit))
	}
	for _, o := range r.OpenOperations() {
		all = append(all, scope(o.Name, o.Circuit))
	}
	return all
}

func TestWhatEvidenceOpens(t *testing.T) {
	threeOf := func(agent, operation, how string) []string {
		return []string{
			fmt.Sprintf("%s %s A %s", agent, operation, how),
			fmt.Sprintf("%s %s B %s", agent, operation, how),
			fmt.Sprintf("%s %s C %s", agent, operation, how),
		}
	}
	for name, c := range map[string]struct {
		story []string
		open  []string
	}{
		"two calls are not enough":                     {threeOf("alice", "quote", "500")[:2], nil},
		"the same call again counts once":              {[]string{"alice quote A 500", "alice quote A 500", "alice quote B 500", "alice quote A 500"}, nil},
		"and does so for another agent":                {[]string{"alice quote A 500", "bob quote A 500", "bob quote B 500"}, nil},
		"three of one agent":                           {threeOf("alice", "quote", "500"), []string{"quote for alice"}},
		"three of two agents":                          {[]string{"alice quote A 500", "bob quote B 500", "alice quote C 500"}, []string{"quote"}},
		"a call that fails for two is everybody's":     {[]string{"alice quote A 500", "bob quote A 500", "alice quote B 500", "alice quote C 500"}, []string{"quote"}},
		"a failure of another agent widens":            {append(threeOf("alice", "quote", "500"), "bob quote D 500"), []string{"quote"}},
		"an odd one does not":                          {append(threeOf("alice", "quote", "500"), "bob quote D odd"), []string{"quote for alice"}},
		"anybody's success closes":                     {append(threeOf("alice", "quote", "500"), "bob quote D ok"), nil},
		"and ends a row":                               {[]string{"alice quote A 500", "alice quote B 500", "bob quote D ok", "alice quote C 500"}, nil},
		"that of another operation does neither":       {append(threeOf("alice", "quote", "500"), "alice profile A ok"), []string{"quote for alice"}},
		"odd answers never open":                       {append(threeOf("alice", "quote", "odd"), "bob quote D odd", "bob quote E odd"), nil},
		"nor do they end a row":                        {[]string{"alice quote A 500", "alice quote B 500", "alice quote D odd", "alice quote C 500"}, []string{"quote for alice"}},
		"two operations and no success":                {append(threeOf("alice", "quote", "500"), threeOf("bob", "profile", "500")...), []string{"provider", "quote for alice", "profile for bob"}},
		"two operations of one agent":                  {append(threeOf("alice", "quote", "500"), threeOf("alice", "profile", "500")...), []string{"provider for alice", "quote for alice", "profile for alice"}},
		"which another's failure widens":               {append(append(threeOf("alice", "quote", "500"), threeOf("alice", "profile", "500")...), "bob chart A 500"), []string{"provider", "quote for alice", "profile for alice"}},
		"and another's success closes":                 {append(append(threeOf("alice", "quote", "500"), threeOf("alice", "profile", "500")...), "bob chart A ok"), []string{"quote for alice", "profile for alice"}},
		"two operations with a success between":        {append(append(threeOf("alice", "quote", "500"), "bob chart A ok"), threeOf("bob", "profile", "500")...), []string{"quote for alice", "profile for bob"}},
		"a third without":                              {append(append(append(threeOf("alice", "quote", "500"), "bob chart A ok"), threeOf("bob", "profile", "500")...), threeOf("bob", "news", "500")...), []string{"provider for bob", "quote for alice", "profile for bob", "news for bob"}},
		"three without a connection":                   {[]string{"alice quote A refused", "alice profile A refused", "alice quote B refused"}, []string{"provider"}},
		"two of them, and a 500":                       {[]string{"alice quote A refused", "alice profile A refused", "alice chart B 500"}, nil},
		"three without a connection, one success":      {[]string{"alice quote A refused", "alice profile A refused", "bob chart A ok", "alice quote B refused"}, nil},
		"three refused keys":                           {[]string{"alice quote A 401", "alice profile A 401", "alice quote B 401"}, []string{"provider"}},
		"the same refused call thrice":                 {[]string{"alice quote A 401", "alice quote A 401", "alice quote A 401"}, nil},
		"three operations of one agent":                {[]string{"alice get/a A 500", "alice get/b B 500", "alice get/c C 500", "alice get/d D 500"}, nil},
		"three operations of two agents":               {[]string{"alice get/a A 500", "alice get/b B 500", "bob get/c C 500"}, []string{"provider"}},
		"with a success between":                       {[]string{"alice get/a A 500", "alice get/b B 500", "carol quote A ok", "bob get/c C 500"}, nil},
		"with another success every time, for an hour": {slices.Repeat([]string{"alice get/a A 500", "bob get/b B 500", "carol get/c C 500", "carol quote A ok"}[1:], 20), nil},
		"429 says nothing":                             {[]string{"alice quote A 500", "alice quote B 500", "alice quote C 429"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := play(t, Record{}, c.story...)
			if got := open(r); !slices.Equal(got, slices.Clone(append([]string{}, c.open...))) {
				t.Errorf("open: %q, want %q", got, c.open)
			}
		})
	}
}

// TestTwoThatOpenTogether are no outage until nothing has succeeded for a
// while: what is under way has its say.
func TestTwoThatOpenTogether(t *testing.T) {
	r, now := Record{}, start
	for _, key := range []string{"A", "B", "C"} {
		r = r.Failed(call(t, "alice quote "+key), Failure, now, policy)
		r = r.Failed(call(t, "bob profile "+key), Failure, now, policy)
	}
	if got := open(r.Reconsidered(now.Add(longEnough-1), policy)); !slices.Equal(got, []string{"quote for alice", "profile for bob"}) {
		t.Errorf("at once: %q", got)
	}
	if got := open(r.Reconsidered(now.Add(longEnough), policy)); len(got) != 3 || got[0] != "provider" {
		t.Errorf("after a while: %q", got)
	}
	r = r.Succeeded(call(t, "carol chart A"), now.Add(longEnough/2))
	if got := open(r.Reconsidered(now.Add(time.Hour), policy)); len(got) != 2 {
		t.Errorf("after a success: %q", got)
	}
	if r.Suspect(now.Add(time.Hour)) || r.Reconsidered(now.Add(time.Hour), Policy{}).Held() {
		t.Error("suspect after a success, or without circuits")
	}
}

func TestWhatACircuitMeansForACall(t *testing.T) {
	forAlice := play(t, Record{}, "alice quote A 500", "alice quote B 500", "alice quote C 500")
	wholeQuote := play(t, forAlice, "bob quote D 500")
	providerForAlice := play(t, forAlice, "alice profile A 500", "alice profile B 500", "alice profile C 500")
	lone := Record{}.Failed(call(t, "alice quote A"), Odd, start, policy).Spared(call(t, "alice quote A"), start, start, policy)
	due := start.Add(2 * time.Minute)
	for name, c := range map[string]struct {
		r    Record
		call string
		now  time.Time
		want Look
	}{
		"one agent's":                      {forAlice, "alice quote Z", start, Look{Held: true, By: "quote"}},
		"another agent's":                  {forAlice, "bob quote Z", start, Look{Alone: []string{"quote"}}},
		"another operation":                {forAlice, "alice profile Z", start, Look{}},
		"the probe":                        {forAlice, "alice quote Z", due, Look{Probe: true, By: "quote"}},
		"everybody's":                      {wholeQuote, "carol quote Z", start, Look{Held: true, By: "quote"}},
		"the provider, one agent's":        {providerForAlice, "alice chart Z", start, Look{Held: true}},
		"the provider, another agent's":    {providerForAlice, "bob chart Z", start, Look{Alone: []string{""}}},
		"both, another agent's":            {providerForAlice, "bob quote Z", start, Look{Alone: []string{"", "quote"}}},
		"the provider's probe":             {providerForAlice, "alice quote Z", due, Look{Probe: true}},
		"a lone call":                      {lone, "alice quote A", start, Look{Held: true}},
		"a lone call's neighbour":          {lone, "alice quote B", start, Look{Alone: []string{""}}},
		"a lone call's probe":              {lone, "alice quote A", due, Look{Probe: true}},
		"nothing is open":                  {Record{}, "alice quote A", due, Look{}},
		"of an operation nobody knows yet": {wholeQuote, "alice chart A", due, Look{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.r.Look(call(t, c.call), c.now); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestLastRetry(t *testing.T) {
	for name, c := range map[string]struct {
		story []string // the call is alice's quote A, whose first failure is the first line
		want  []string // open after it; nil: it goes to review
	}{
		"nobody else called":                               {[]string{"alice quote A 500"}, []string{"provider for alice's quote/A"}},
		"an odd one that nobody else called":               {[]string{"alice quote A odd"}, []string{"provider for alice's quote/A"}},
		"the provider has answered meanwhile":              {[]string{"alice quote A 500", "bob chart A ok", "alice quote A 500"}, nil},
		"its operation has, and another call failed since": {[]string{"alice quote A 500", "bob quote B ok", "bob quote C 500", "alice quote A 500"}, nil},
		"its operation has":                                {[]string{"alice quote A 500", "bob quote B ok", "alice quote A 500"}, nil},
		"another of its operation failed":                  {[]string{"alice quote A 500", "alice quote B odd", "bob chart A ok", "alice quote A 500"}, []string{"quote for alice"}},
		"another agent's of its operation":                 {[]string{"alice quote A odd", "bob quote B odd", "bob chart A ok", "alice quote A odd"}, []string{"quote"}},
		"another operation failed too":                     {[]string{"alice quote A 500", "alice chart A 500"}, []string{"provider for alice"}},
		"another agent's other operation":                  {[]string{"alice quote A 500", "bob chart A 500"}, []string{"provider"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, x, now := play(t, Record{}, c.story...), call(t, "alice quote A"), start.Add(time.Minute)
			first := start.Add(time.Second)
			if review := r.LastRetry(x, first) == BlameRequest; review != (c.want == nil) {
				t.Errorf("review: %v", review)
			}
			if got := open(r.Spared(x, first, now, policy)); !slices.Equal(got, append([]string{}, c.want...)) {
				t.Errorf("open: %q, want %q", got, c.want)
			}
		})
	}
}

// TestWhatIsOpenIsToBlame: where one failure opens a circuit, the request whose
// it was is spared as all others are, whatever else the provider answers.
func TestWhatIsOpenIsToBlame(t *testing.T) {
	x, p := call(t, "alice quote A"), Policy{Failures: 1, Open: time.Minute}
	r := Record{}.Failed(x, Failure, start, p).Succeeded(call(t, "bob chart A"), start.Add(time.Second))
	if got := open(r); !slices.Equal(got, []string{"quote for alice"}) {
		t.Fatalf("open: %q", got)
	}
	if blame := r.LastRetry(x, start); blame != BlameOperation {
		t.Errorf("blamed: %v", blame)
	}
}

// probeOnce claims and ends a probe.
func probeOnce(t *testing.T, r Record, operation string, c Call, o Outcome, now time.Time) Record {
	t.Helper()
	claimed := r.Claimed(operation, c, "w", now, now.Add(time.Minute))
	if claimed.Of(operation).State != HalfOpen {
		t.Fatalf("%v may not probe %q at %v", c, operation, now)
	}
	return claimed.Probed(operation, c, "w", o, 1000, now, policy)
}

func TestProbesGoRound(t *testing.T) {
	r := play(t, Record{}, "alice quote A 500", "bob quote B 500", "alice quote C 500")
	now := r.Of("quote").OpenUntil
	a, a2, b := call(t, "alice quote A"), call(t, "alice quote X"), call(t, "bob quote B")
	r = probeOnce(t, r, "quote", a, Failure, now)
	now = now.Add(time.Minute)
	may := func(c Call, at time.Time) bool { return r.Of("quote").MayProbe(c, at) }
	if may(b, now.Add(-time.Second)) || !may(b, now) {
		t.Error("another agent's call goes when the probe is due")
	}
	if may(a2, now.Add(time.Second)) || !may(a2, now.Add(2*time.Second)) {
		t.Error("another call of the same agent goes where no other agent's does")
	}
	if may(a, now.Add(3*time.Second)) || !may(a, now.Add(4*time.Second)) {
		t.Error("the same call goes last")
	}
	r = probeOnce(t, r, "quote", b, Failure, now)
	agentA, callA := r.Of("quote").Turns(a)
	agentB, callB := r.Of("quote").Turns(b)
	if agentA >= agentB || callA >= callB {
		t.Errorf("turns: alice %d, %d; bob %d, %d", agentA, callA, agentB, callB)
	}
	if r = probeOnce(t, r, "quote", a, Success, now.Add(time.Minute)); len(open(r)) != 0 {
		t.Errorf("open after a success: %q", open(r))
	}
}

// TestALoneProbeBacksOff: a call that fails alone is tried less and less
// often, and stands in nobody's way.
func TestALoneProbeBacksOff(t *testing.T) {
	x, other := call(t, "alice quote A"), call(t, "bob quote B")
	p := Policy{Failures: 3, Open: 5 * time.Second}
	r := play(t, Record{}, "alice quote A 500", "bob quote C 500")
	r = r.Spared(x, start, start.Add(time.Minute), p)
	now := r.Of("quote").OpenUntil
	var waits []time.Duration
	for range 16 {
		claimed := r.Claimed("quote", x, "w", now, now.Add(time.Minute))
		r = claimed.Probed("quote", x, "w", Failure, 1000, now, p)
		circuit := r.Of("quote")
		waits = append(waits, circuit.ProbeAt(x).Sub(now))
		if wait := circuit.ProbeAt(other).Sub(now); wait != p.Open {
			t.Fatalf("another call must wait for %v", wait)
		}
		now = circuit.ProbeAt(x)
	}
	turn := p.Open + p.Open/4
	want := append(slices.Repeat([]time.Duration{turn}, 9), time.Minute, 2*time.Minute, 4*time.Minute, 8*time.Minute, 15*time.Minute, 15*time.Minute, 15*time.Minute)
	if !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	if spent := r.Of("quote").Spent; spent != 16000 {
		t.Errorf("spent %d bytes", spent)
	}
	claimed := r.Claimed("quote", other, "w", now, now.Add(time.Minute))
	if r = claimed.Probed("quote", other, "w", Failure, 0, now, p); r.Of("quote").ProbeAt(x).Sub(now) != p.Open {
		t.Errorf("after another's probe the next is due in %v", r.Of("quote").ProbeAt(x).Sub(now))
	}
	if wait := r.Of("quote").ProbeAt(other).Sub(now); wait != turn {
		t.Errorf("the other call's second probe is due in %v: it has not been tried as often", wait)
	}
}

func TestTheProviderIsBack(t *testing.T) {
	r := play(t, Record{}, "alice quote A 500", "alice quote B 500", "alice quote C 500", "bob profile A 500", "bob profile B 500", "bob profile C 500")
	now := r.OpenUntil
	r = probeOnce(t, r, "", call(t, "alice quote A"), Success, now)
	if got := open(r); !slices.Equal(got, []string{"profile for bob"}) {
		t.Errorf("open: %q", got)
	}
	if !r.Of("profile").Due(now) {
		t.Error("what failed with the provider is tried at once")
	}
	if r := probeOnce(t, r, "profile", call(t, "bob profile A"), Throttled, now); len(open(r)) != 0 {
		t.Errorf("a 429 is an answer; open: %q", open(r))
	}
}

// What was odd is no evidence, whatever follows it.
func TestOddOnesDoNotAddUp(t *testing.T) {
	if got := open(play(t, Record{}, "alice quote A odd", "bob quote B odd", "carol quote C odd", "dave quote D 500", "erin quote E 500")); len(got) > 0 {
		t.Errorf("open: %q", got)
	}
}

// Odd answers fill no record, however many calls have them: what is evidence
// has its place beside them.
func TestOddOnesFillNothing(t *testing.T) {
	r, now := Record{}, start
	for i := range 100 {
		now = now.Add(time.Second)
		r = r.Failed(Call{Operation: "quote", Agent: "alice", Key: fmt.Sprint("odd-", i)}, Odd, now, policy)
	}
	if n := len(r.Operations[0].Row); n > mostOdd {
		t.Errorf("%d odd ones are kept", n)
	}
	r = r.Failed(Call{Operation: "quote", Agent: "alice", Key: "hard"}, Failure, now, policy)
	if n := len(r.Operations[0].hard()); n != 1 {
		t.Errorf("%d of one failure is evidence", n)
	}
}

// What fails and was begun before a circuit opened for it says nothing new,
// whichever circuit that is and however it failed.
func TestWhatAnOpenCircuitCoversIsNoEvidence(t *testing.T) {
	three := []string{"alice quote A 500", "bob quote B 500", "carol quote C 500"}
	for name, r := range map[string]Record{
		"an operation's":   play(t, Record{}, three...),
		"the provider's":   play(t, Record{}, "alice quote A refused", "bob news B refused", "carol profile C refused"),
		"of one agent":     play(t, Record{}, "alice quote A 500", "alice quote B 500", "alice quote C 500"),
		"with a probe out": play(t, Record{}, three...).Claimed("quote", call(t, "alice quote A"), "w", start.Add(time.Hour), start.Add(2*time.Hour)),
	} {
		if !r.AnyHeld() {
			t.Fatalf("%s: nothing is open", name)
		}
		for _, o := range []Outcome{Failure, Unreached, Unauthorized, Odd} {
			if after := r.Failed(call(t, "alice quote NEW"), o, start.Add(3*time.Hour), policy); !after.Equal(r) {
				t.Errorf("%s, %v: %q is open, and %q was", name, o, open(after), open(r))
			}
		}
	}
}

func TestBounds(t *testing.T) {
	r := Record{}
	for i := range 200 {
		for _, key := range []string{"A", "B", "C"} {
			now := start.Add(time.Duration(i) * time.Second)
			c := Call{Operation: OperationOf("get", json.RawMessage(fmt.Sprintf(`{"path":"/%s/%d"}`, strings.Repeat("x", 300), i))), Agent: "alice", Key: fmt.Sprint(key, i)}
			r = r.Succeeded(Call{Operation: "quote", Agent: "bob", Key: "good"}, now)
			r = r.Failed(c, Failure, now, policy)
		}
	}
	value, err := r.Encode()
	if err != nil || len(value) > 64<<10 {
		t.Errorf("%d bytes, %v", len(value), err)
	}
	if n := len(r.OpenOperations()); n != mostOpen || len(r.Operations) > mostOperations {
		t.Errorf("%d open of %d operations", n, len(r.Operations))
	}
	if got := open(r)[0]; got != "provider for alice" {
		t.Errorf("beyond the bound %q is open", got)
	}
}

func TestOperationNames(t *testing.T) {
	for params, want := range map[string]string{
		`{"path":"/ratios/AAPL"}`: "get /ratios/AAPL", `{}`: "get", `{"path":7}`: "get", `nonsense`: "get", ``: "get",
	} {
		if got := OperationOf("get", json.RawMessage(params)); got != want {
			t.Errorf("get %s is %q", params, got)
		}
	}
	if got := OperationOf("quote", json.RawMessage(`{"path":"/x"}`)); got != "quote" {
		t.Errorf("quote is %q", got)
	}
	long := func(end string) string {
		return OperationOf("get", json.RawMessage(`{"path":"/`+strings.Repeat("long/", 100)+end+`"}`))
	}
	if a, b := long("a"), long("b"); a == b || len(a) > longestOperation {
		t.Errorf("%q and %q", a, b)
	}
}

func TestCodec(t *testing.T) {
	old := `{"state":"open","opened_at":"2026-03-01T12:00:00Z","open_until":"2026-03-01T12:01:00Z","why":"3 different requests failed in a row","last_success":"2026-03-01T11:00:00Z","writer":"old"}`
	r, err := Decode([]byte(old))
	if err != nil || !r.Held() || !r.LastSuccess.Equal(start.Add(-time.Hour)) || !r.OpenUntil.Equal(start.Add(time.Minute)) {
		t.Errorf("a record of the first version: %+v, %v", r, err)
	}
	if r, err := Decode([]byte(`{"state":"closed","row":["fmp/quote/alice/1"]}`)); err != nil || r.AnyHeld() {
		t.Errorf("a row of the first version: %+v, %v", r, err)
	}
	if _, err := Decode([]byte(`{"version":3,"state":{"new":true}}`)); err == nil || !strings.Contains(err.Error(), ErrNewer.Error()) {
		t.Errorf("a record of a later version: %v", err)
	}
	for _, bad := range []string{"{", "[]", `"x"`, `{"version":2,"state":7}`} {
		if r, err := Decode([]byte(bad)); err == nil || r.AnyHeld() {
			t.Errorf("%s: %+v, %v", bad, r, err)
		}
	}
	// What the first version needs is where it was.
	value, err := play(t, Record{}, "alice quote A refused", "alice quote B refused", "alice quote C refused").Encode()
	if err != nil {
		t.Fatal(err)
	}
	var flat struct {
		State State     `json:"state"`
		Until time.Time `json:"open_until"`
	}
	if err := json.Unmarshal(value, &flat); err != nil || flat.State != Open || !flat.Until.Equal(start.Add(63*time.Second)) {
		t.Errorf("%s: %v", value, err)
	}
}

func TestChanges(t *testing.T) {
	before := play(t, Record{}, "alice quote A 500", "alice quote B 500")
	opened := play(t, before, "alice quote C 500")
	widened := play(t, opened, "bob quote D 500")
	for name, c := range map[string]struct {
		before, after Record
		want          string
	}{
		"nothing":  {before, before, "[]"},
		"a row":    {Record{}, before, "[]"},
		"opened":   {before, opened, "[quote  open]"},
		"widened":  {opened, widened, "[quote open open]"},
		"closed":   {widened, widened.Succeeded(call(t, "bob quote E"), start), "[quote open ]"},
		"resumed":  {widened, widened.Reset(), "[quote open ]"},
		"provider": {before, play(t, before, "alice a A refused", "alice a B refused", "alice a C refused"), "[  open]"},
	} {
		t.Run(name, func(t *testing.T) {
			got := []string{}
			for _, change := range Changes(c.before, c.after) {
				got = append(got, fmt.Sprintf("%s %s %s", change.Operation, change.Before.State, change.After.State))
			}
			if s := fmt.Sprint(got); s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
		})
	}
}

// TestWellOperationsAreNeverHeld plays any calls of a provider of which some
// operations are broken, for some agents, and some calls are. A model of the
// world says what each call comes to, and what nobody may ever be told: that a
// call waits that has nothing in common with what failed.
func TestWellOperationsAreNeverHeld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		agents, operations, keys := []string{"alice", "bob", "carol"}, []string{"a", "b", "c", "d", "e"}, []string{"1", "2", "3", "4", "5"}
		broken := map[string]bool{} // "operation" or "agent operation" or "operation/key"
		for range rapid.IntRange(0, 4).Draw(t, "broken things") {
			o := rapid.SampledFrom(operations[:3]).Draw(t, "operation") // d and e are well
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				broken[o] = true
			case 1:
				broken[rapid.SampledFrom(agents).Draw(t, "agent")+" "+o] = true
			case 2:
				broken[o+"/"+rapid.SampledFrom(keys).Draw(t, "key")] = true
			}
		}
		fails := func(c Call) bool { return broken[c.Operation] || broken[c.Agent+" "+c.Operation] || broken[c.Key] }
		r, now := Record{}, start
		failed := map[string]map[string]bool{} // by operation: who failed
		for range rapid.IntRange(1, 300).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "seconds")) * time.Second)
			o := rapid.SampledFrom(operations).Draw(t, "operation")
			c := Call{Operation: o, Agent: rapid.SampledFrom(agents).Draw(t, "agent"), Key: o + "/" + rapid.SampledFrom(keys).Draw(t, "key")}
			look := r.Look(c, now)
			if look.Held && look.By != "" && !failed[o][c.Agent] && len(failed[o]) < 2 {
				t.Fatalf("%v waits for %q, where only %v failed", c, look.By, failed[o])
			}
			if look.Held && look.By == "" && r.LastSuccess.After(r.OpenedAt) {
				t.Fatalf("%v waits for the provider, of which something has succeeded since", c)
			}
			if look.Held {
				continue
			}
			outcome := Success
			if fails(c) {
				outcome = Failure
				if failed[o] == nil {
					failed[o] = map[string]bool{}
				}
				failed[o][c.Agent] = true
			}
			apply := func(r Record) Record {
				switch {
				case look.Probe:
					return r.Probed(look.By, c, "w", outcome, 0, now, policy)
				case outcome == Success:
					return r.Succeeded(c, now)
				}
				return r.Failed(c, outcome, now, policy)
			}
			if look.Probe {
				if r = r.Claimed(look.By, c, "w", now, now.Add(time.Minute)); r.Of(look.By).State != HalfOpen {
					t.Fatalf("%v may probe %q and cannot claim it", c, look.By)
				}
			}
			next := apply(r)
			if again := apply(next); !again.Equal(next) {
				t.Fatalf("%v %v twice is not the same as once", c, outcome)
			}
			if outcome == Success && (next.Held() || next.Of(o).Held()) {
				t.Fatalf("%v succeeded, and open is %q", c, open(next))
			}
			value, err := next.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if r, err = Decode(value); err != nil || !r.Equal(next) {
				t.Fatalf("%s is read as %+v, %v", value, r, err)
			}
		}
		for _, o := range r.OpenOperations() {
			if len(failed[o.Name]) == 0 {
				t.Fatalf("%q is open and never failed", o.Name)
			}
		}
	})
}

// Only a probe that failed puts the next one off: no other call's failure does,
// and no request that is at its last retry.
func TestNothingElsePutsAProbeOff(t *testing.T) {
	for operation, r := range map[string]Record{
		"quote": play(t, Record{}, "alice quote A 500", "alice quote B 500", "alice quote C 500"),
		"":      play(t, Record{}, "alice quote A refused", "alice profile A refused", "alice quote B refused"),
	} {
		before := r.Of(operation)
		if !before.Held() {
			t.Fatalf("%q is not open", operation)
		}
		for i, text := range []string{"alice quote Z", "bob chart X", "bob quote Y", "alice quote A", "carol chart X"} {
			now, c := before.OpenedAt.Add(time.Duration(i+1)*10*time.Second), call(t, text)
			for what, next := range map[string]Record{
				"spared":  r.Spared(c, start, now, policy),
				"failed":  r.Failed(c, Failure, now, policy),
				"claimed": r.Claimed(operation, c, "w", now, now.Add(time.Minute)),
			} {
				after := next.Of(operation)
				if after.State != Open || !after.OpenedAt.Equal(before.OpenedAt) || !after.OpenUntil.Equal(before.OpenUntil) {
					t.Errorf("%q, %s %s: opened at %v until %v, before at %v until %v", operation, text, what, after.OpenedAt, after.OpenUntil, before.OpenedAt, before.OpenUntil)
				}
			}
			r = r.Failed(c, Failure, now, policy).Spared(c, start, now, policy)
		}
	}
}

// However often a lone probe has failed, the next is no sooner for it.
func TestABackOffIsForGood(t *testing.T) {
	last := time.Duration(0)
	for repeats := range 1000 {
		wait := backOff(repeats)
		if wait < last || wait > mostBackOff {
			t.Fatalf("%v after %d failures, and %v after one less", wait, repeats, last)
		}
		last = wait
	}
	if last != mostBackOff {
		t.Errorf("%v in the end", last)
	}
}
