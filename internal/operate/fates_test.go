package operate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/browse"
	"fetchworker/internal/dlq"
	"fetchworker/internal/operate"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// deed is an act of a person's on one message, with its durable steps in their
// order and what is written and read for it.
type deed struct {
	name, stream string
	steps, says  []string
	do           func(context.Context, *operate.Operator, browse.Found, time.Time) (operate.Fate, error)
}

var deeds = []deed{
	{
		"replay", wire.StreamDLQ,
		[]string{"audit", "replay-now"},
		[]string{"fetch.audit.", "fetch.dlq."},
		func(ctx context.Context, o *operate.Operator, f browse.Found, now time.Time) (operate.Fate, error) {
			return o.ReplayNow(ctx, f, now)
		},
	},
	{
		"cancel", wire.StreamDLQ,
		[]string{"audit", "answer", "cancel"},
		[]string{"fetch.audit.", "fetch.put.", "$KV.", "MSG.DELETE"},
		func(ctx context.Context, o *operate.Operator, f browse.Found, now time.Time) (operate.Fate, error) {
			return o.Cancel(ctx, f, now)
		},
	},
	{
		"requeue", wire.StreamReview,
		[]string{"audit", "claim", "letter", "delete-item"},
		[]string{"fetch.audit.", "fetch.review.", "fetch.dlq.", "MSG.DELETE", "DIRECT.GET"},
		func(ctx context.Context, o *operate.Operator, f browse.Found, _ time.Time) (operate.Fate, error) {
			return o.Requeue(ctx, f, operate.RequeueOptions{})
		},
	},
	{
		"discard", wire.StreamReview,
		[]string{"audit", "claim", "answer", "delete-item"},
		[]string{"fetch.audit.", "fetch.review.", "fetch.put.", "MSG.DELETE", "DIRECT.GET"},
		func(ctx context.Context, o *operate.Operator, f browse.Found, _ time.Time) (operate.Fate, error) {
			return o.Discard(ctx, f)
		},
	},
}

// matter is one request that deeds are done on: its agent has no other.
type matter struct {
	d     *desk
	l     dlq.Letter
	seen  browse.Found
	began time.Time
}

// matter puts the message of a request where a deed finds it.
func (d *desk) matter(agent, stream string) matter {
	d.t.Helper()
	l := letter("q-1")
	l.Agent = agent
	if stream == wire.StreamDLQ {
		d.put(l)
	} else {
		d.bury(l)
	}
	m := matter{d: d, l: l, began: time.Now().Add(-time.Second)}
	m.seen = m.in(stream)[0]
	return m
}

// in are the request's messages in a stream.
func (m matter) in(stream string) []browse.Found {
	m.d.t.Helper()
	return m.d.walk(stream, browse.Filter{Agent: m.l.Agent})
}

// lives are its letters, released ones too; and the answer that ends it for good.
func (m matter) lives() (letters, released []browse.Found, end *fetchworker.Answer) {
	m.d.t.Helper()
	stands, err := answer.New(m.d.log).Read(m.d.t.Context(), m.l.Identity)
	if err != nil {
		m.d.t.Fatal(err)
	}
	if stands.Stands && stands.Final && !stands.Review {
		end = &stands.Answer
	}
	return m.in(wire.StreamDLQ), m.in(wire.StreamReplay), end
}

// noted is up to when workers look for the answers of its agent.
func (m matter) noted() time.Time {
	m.d.t.Helper()
	e, err := m.d.KV.Get(m.d.t.Context(), "cancel.fmp."+m.l.Agent)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return time.Time{}
	}
	if err != nil {
		m.d.t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(e.Value()), `"named":"`)
	text, _, _ = strings.Cut(text, `"`)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		m.d.t.Fatalf("%s: %v", e.Value(), err)
	}
	return at
}

// lines are what the audit says one run did to the request: how often it was
// about to, and what of that was not done after all.
func (m matter) lines(run string) (done int, undone []operate.Fate) {
	m.d.t.Helper()
	for a, err := range operate.Acts(m.d.t.Context(), m.d.browser, operate.ActFilter{Agent: m.l.Agent, Since: m.began}) {
		switch {
		case err != nil:
			m.d.t.Fatal(err)
		case a.Run != run || a.Superseded:
		case a.Outcome == "":
			done++
		default:
			undone = append(undone, a.Outcome)
		}
	}
	return done, undone
}

// stands checks that what a deed was told to have become of it is what stands.
func (m matter) stands(what, deed, run string, fate operate.Fate, now time.Time, alone bool) {
	m.d.t.Helper()
	t := m.d.t
	letters, released, end := m.lives()
	if done, undone := m.lines(run); (done-len(undone) == 1) != (fate == operate.FateDone) || len(undone) > 0 && undone[0] != fate {
		t.Errorf("%s: it was told %s, and the audit has %d lines and %v", what, fate, done, undone)
	}
	if fate != operate.FateDone {
		return
	}
	switch deed {
	case "replay":
		if alone && (len(letters) != 1 || !letters[0].NotBefore.Equal(now)) {
			t.Errorf("%s: done, and there are %v", what, letters)
		}
	case "cancel":
		if end == nil || end.Problem == nil || end.Problem.Code() != fetchworker.CodeCancelled || m.noted().Before(now) || alone && len(letters) > 0 {
			t.Errorf("%s: done, and there are %d letters, a note of %v and %+v", what, len(letters), m.noted(), end)
		}
	case "requeue":
		if end != nil || len(letters)+len(released) != 1 || alone && append(letters, released...)[0].Generation != 2 {
			t.Errorf("%s: done, and there are %v, %v and %+v", what, letters, released, end)
		}
	case "discard":
		if end == nil || end.Problem == nil || end.Problem.Code() != fetchworker.CodeDiscarded || alone && len(letters) > 0 {
			t.Errorf("%s: done, and there are %v and %+v", what, letters, end)
		}
	}
}

// release is what a replayer does with a letter.
func (m matter) release() error {
	for _, l := range m.in(wire.StreamDLQ) {
		if _, err := m.d.JS.PublishMsg(m.d.t.Context(), l.Replayed()); err != nil {
			return err
		}
		if err := m.d.log.Delete(m.d.t.Context(), "", wire.StreamDLQ, l.Sequence); err != nil {
			return err
		}
	}
	return nil
}

// What comes between any two steps of an act - another's act, a replayer, the
// end of the process - loses no request and gives none two ends; whoever is told
// that he did it did, and the audit says so of nobody else.
func TestWhateverComesBetweenTheStepsOfAnAct(t *testing.T) {
	d := newDesk(t)
	now := time.Now().UTC()
	for _, one := range deeds {
		between := []string{"crash"}
		for _, other := range deeds {
			if other.stream == one.stream {
				between = append(between, other.name)
			}
		}
		if one.stream == wire.StreamDLQ {
			between = append(between, "release", "answered")
		} else {
			between = append(between, "later-life")
		}
		for _, step := range one.steps {
			for _, after := range []bool{false, true} {
				for _, comes := range between {
					agent := fmt.Sprintf("%s-%s-%t-%s", one.name, step, after, comes)
					m := d.matter(agent[:min(len(agent), 32)], one.stream)
					rivals := map[string]operate.Fate{}
					rival := func() error {
						switch comes {
						case "crash":
							return errCrash
						case "release":
							return m.release()
						case "later-life":
							later := m.l
							later.Generation = 7
							d.put(later)
							return nil
						case "answered":
							d.answer(fetchworker.Answer{Identity: m.l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: 1})
							return nil
						}
						other := deeds[slices.IndexFunc(deeds, func(o deed) bool { return o.name == comes })]
						o := operate.NewOperator(d.JS, record.New(d.JS, nil), operate.Signature{By: "bob", Reason: "mine", Run: "rival"})
						fate, err := other.do(t.Context(), o, m.seen, now)
						rivals[comes] = fate
						return err
					}
					met := false
					o := d.operator(func(at string, persisted bool) error {
						if at != step || persisted != after || met {
							return nil
						}
						met = true
						return rival()
					})
					fate, err := one.do(t.Context(), o, m.seen, now)
					if comes == "crash" {
						if !errors.Is(err, errCrash) {
							t.Errorf("%s: it did not crash: %s %v", agent, fate, err)
						}
						letters, released, end := m.lives()
						items := m.in(wire.StreamReview)
						if len(letters)+len(released)+len(items) == 0 && end == nil {
							t.Errorf("%s: the request is nowhere", agent)
						}
						if one.name == "cancel" && len(letters) == 0 && m.noted().Before(now) {
							t.Errorf("%s: its letter is gone, and no worker is told", agent)
						}
						if done, _ := m.lines("r1"); done == 0 && (step != "audit" || after) {
							t.Errorf("%s: nothing is in the audit", agent)
						}
						for _, again := range m.in(one.stream) {
							if _, err := one.do(t.Context(), d.operator(nil), again, now); err != nil {
								t.Errorf("%s: again: %v", agent, err)
							}
						}
						m.ends(agent, one.name, now)
						continue
					}
					if err != nil {
						t.Errorf("%s: %v", agent, err)
						continue
					}
					m.stands(agent, one.name, "r1", fate, now, len(rivals) == 0 && comes != "release" && comes != "answered" && comes != "later-life")
					for name, fate := range rivals {
						m.stands(agent+" of the other", name, "rival", fate, now, false)
					}
					m.once(agent, one.name, fate, rivals)
					beaten := step != "delete-item" && (step != "letter" || !after)
					if comes == "later-life" && one.name == "requeue" && beaten != (fate == operate.FateSuperseded) {
						t.Errorf("%s: told %s", agent, fate)
					}
				}
			}
		}
	}
}

// ends checks that an act which was killed and done again has done it.
func (m matter) ends(what, deed string, now time.Time) {
	m.d.t.Helper()
	letters, released, end := m.lives()
	items := m.in(wire.StreamReview)
	var good bool
	switch deed {
	case "replay":
		good = end == nil && len(letters) == 1 && !letters[0].NotBefore.After(now)
	case "cancel":
		good = end != nil && end.Problem.Code() == fetchworker.CodeCancelled && len(letters) == 0
	case "requeue":
		good = end == nil && len(letters)+len(released) == 1
	case "discard":
		good = end != nil && end.Problem.Code() == fetchworker.CodeDiscarded && len(letters) == 0
	}
	if !good || len(items) > 0 {
		m.d.t.Errorf("%s: killed and done again it leaves %v, %v, %v and %+v", what, letters, released, items, end)
	}
}

// once checks that of two decisions one was done, and that nothing is lost.
func (m matter) once(what, deed string, fate operate.Fate, rivals map[string]operate.Fate) {
	m.d.t.Helper()
	letters, released, end := m.lives()
	items := m.in(wire.StreamReview)
	if len(letters)+len(released)+len(items) == 0 && end == nil {
		m.d.t.Errorf("%s: the request is nowhere", what)
	}
	if m.seen.Stream != wire.StreamReview {
		if fate == operate.FateDone && rivals[deed] == operate.FateDone && deed == "cancel" {
			m.d.t.Errorf("%s: both are told that it is theirs", what)
		}
		return
	}
	for name, other := range rivals {
		if fate == operate.FateDone && other == operate.FateDone {
			m.d.t.Errorf("%s: both are told that they did it", what)
		}
		if fate != operate.FateDone && other != operate.FateDone {
			m.d.t.Errorf("%s: told %s, and %s told %s", what, fate, name, other)
		}
	}
	if lives := len(letters) + len(released); lives > 1 || lives == 1 && end != nil && letters[0].Generation < 7 || len(items) > 0 {
		m.d.t.Errorf("%s: %d letters, %d items and %+v", what, lives, len(items), end)
	}
}

// Whatever is lost on the way of each thing that an act says or asks, once: it
// is done, once, and told as done.
func TestAnActOutlastsWhatIsLostOnItsWay(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		d := &desk{Broker: b, t: t, log: record.New(b.JS, nil), browser: browse.New(b.NC)}
		cable := &brokertest.Wire{}
		js, end := b.Through(t, cable)
		defer end()
		for _, one := range deeds {
			for i, part := range one.says {
				for fault, name := range map[brokertest.Fault]string{brokertest.RequestLost: "heard", brokertest.ReplyLost: "told"} {
					what := fmt.Sprintf("%s-%d-not-%s", one.name, i, name)
					m := d.matter(what, one.stream)
					now := time.Now().UTC()
					o := operate.NewOperator(js, record.New(js, nil), operate.Signature{By: "ann", Reason: "because", Run: "r1"})
					met := cable.Met()
					cable.Break(part, fault, 1, 0)
					fate, err := one.do(t.Context(), o, m.seen, now)
					cable.Mend()
					if cable.Met() == met {
						t.Errorf("%s: %s is not said", what, part)
					}
					if fate != operate.FateDone || err != nil {
						t.Errorf("%s of %s: %s, %v", what, part, fate, err)
						continue
					}
					m.stands(what+" of "+part, one.name, "r1", fate, now, true)
				}
			}
		}
	})
}

// Where the word of the one write that decides is lost, and what stands then cannot
// be read at once either, the act is still told as what it is.
func TestAnActWhoseWordIsLostIsLookedForUntilItIsFound(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		d := &desk{Broker: b, t: t, log: record.New(b.JS, nil), browser: browse.New(b.NC)}
		cable := &brokertest.Wire{}
		js, end := b.Through(t, cable)
		defer end()
		m := d.matter("looked-for", wire.StreamDLQ)
		now := time.Now().UTC()
		o := operate.NewOperator(js, record.New(js, nil), operate.Signature{By: "ann", Reason: "because", Run: "r1"})
		cable.Break("fetch.dlq.", brokertest.ReplyLost, 1, 0)
		cable.Break("DIRECT.GET."+wire.StreamDLQ, brokertest.RequestLost, 1, 0)
		fate, err := o.ReplayNow(t.Context(), m.seen, now)
		if fate != operate.FateDone || err != nil || cable.Met() != 2 {
			t.Errorf("%s, %v, %d were lost", fate, err, cable.Met())
		}
		m.stands("replay", "replay", "r1", fate, now, true)
	})
}

// A decision that was half done is completed once, wherever the letter of its
// new life has gone meanwhile, and however long after.
func TestADecisionIsCompletedOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.StartIn(t, dir, "")
		defer b.Stop()
		b.Ageless(t)
		d := &desk{Broker: b, t: t, log: record.New(b.JS, nil), browser: browse.New(b.NC)}
		for _, later := range []time.Duration{0, time.Hour} { // the streams know a message id for two minutes
			for name, c := range map[string]struct {
				goes  func(m matter)
				lives int // letters and released ones in the end
			}{
				"lies":     {func(matter) {}, 1},
				"vanished": {func(m matter) { m.remove() }, 1},
				"released": {func(m matter) {
					if err := m.release(); err != nil {
						t.Error(err)
					}
				}, 1},
				"waits": {func(m matter) {
					m.remove()
					p := fetchworker.Waiting(m.l.Identity, fetchworker.ReasonPaused, "", time.Time{})
					d.answer(fetchworker.Answer{Identity: m.l.Identity, Status: fetchworker.StatusWaiting, Generation: 2, Problem: &p})
				}, 0},
				"answered": {func(m matter) {
					m.remove()
					d.answer(fetchworker.Answer{Identity: m.l.Identity, Status: fetchworker.StatusOK, Final: true, Generation: 2})
				}, 0},
			} {
				what := fmt.Sprintf("%s-after-%.0f-s", name, later.Seconds())
				m := d.matter(what, wire.StreamReview)
				crash := d.operator(func(at string, persisted bool) error {
					if at == "letter" && persisted {
						return errCrash
					}
					return nil
				})
				if _, err := crash.Requeue(t.Context(), m.seen, operate.RequeueOptions{}); !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				c.goes(m)
				time.Sleep(later)
				if fate, err := d.operator(nil).Requeue(t.Context(), m.in(wire.StreamReview)[0], operate.RequeueOptions{}); fate != operate.FateDone || err != nil {
					t.Errorf("%s: %s, %v", what, fate, err)
				}
				letters, released, _ := m.lives()
				if n := len(letters) + len(released); n != c.lives || len(m.in(wire.StreamReview)) > 0 {
					t.Errorf("%s: %d letters and %d items are left, want %d letters", what, n, len(m.in(wire.StreamReview)), c.lives)
				}
			}
		}
	})
}

// remove takes the request's letters away.
func (m matter) remove() {
	m.d.t.Helper()
	for _, l := range m.in(wire.StreamDLQ) {
		if err := m.d.log.Delete(m.d.t.Context(), "", wire.StreamDLQ, l.Sequence); err != nil {
			m.d.t.Fatal(err)
		}
	}
}

// A person decides on what he saw. What lies in its place by now is another's
// to decide on, and is not touched.
func TestWhatLiesThereByNowIsNotTouched(t *testing.T) {
	d := newDesk(t)
	for name, now := range map[string]func(dlq.Letter) dlq.Letter{
		"the same anew": func(l dlq.Letter) dlq.Letter { return l },
		"a later life": func(l dlq.Letter) dlq.Letter {
			l.Generation, l.Error = 2, "another failure"
			return l
		},
		"another request": later,
	} {
		for _, one := range deeds {
			if one.stream != wire.StreamReview {
				continue
			}
			m := d.matter(one.name+"-"+strings.ReplaceAll(name, " ", "-"), one.stream)
			lies := now(m.l)
			if _, err := d.JS.PublishMsg(t.Context(), lies.ReviewItem()); err != nil {
				t.Fatal(err)
			}
			item := m.in(wire.StreamReview)[0]
			fate, err := one.do(t.Context(), d.operator(nil), m.seen, time.Now())
			if fate != operate.FateTaken || err != nil {
				t.Errorf("%s of %s: %s, %v", one.name, name, fate, err)
			}
			letters, released, end := m.lives()
			if there := m.in(wire.StreamReview); len(there) != 1 || there[0].Sequence != item.Sequence || string(there[0].Body) != string(lies.Body) {
				t.Errorf("%s of %s: the item became %v", one.name, name, there)
			}
			if len(letters)+len(released) > 0 || end != nil {
				t.Errorf("%s of %s: %d letters, %+v", one.name, name, len(letters), end)
			}
			if done, _ := m.lines("r1"); done != 0 {
				t.Errorf("%s of %s: %d lines of audit", one.name, name, done)
			}
		}
	}
}

// Each agent whose requests are cancelled has its note, also of one moment, and
// one of a later moment replaces it.
func TestEachAgentsCancelIsNoted(t *testing.T) {
	d := newDesk(t)
	o, now := d.operator(nil), time.Now().UTC()
	for _, at := range []time.Time{now, now.Add(time.Second)} {
		for _, agent := range []string{"alice", "bob", "carol"} {
			m := d.matter(agent, wire.StreamDLQ)
			if fate, err := o.Cancel(t.Context(), m.seen, at); err != nil {
				t.Error(fate, err)
			}
			if noted := m.noted(); !noted.Equal(at) {
				t.Errorf("%s: noted up to %v, want %v", agent, noted, at)
			}
		}
	}
}
