package sweep

import (
	"fmt"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/answer"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/budget/fleet"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"
	"fetchworker/internal/wire"

	"go.uber.org/zap"
)

// Whichever one question or write of a pass is lost, or its answer is: what the
// pass then has not done it says, or does in the next, and everything that no
// consumer takes comes to its end, though nothing else comes meanwhile.
func TestOneWordThatIsLostKeepsNothingFromItsEnd(t *testing.T) {
	sweeping(t, func(t *testing.T, s *swept) {
		ctx := t.Context()
		for _, provider := range []string{"left", "given-up"} {
			if err := fleet.NoteServed(ctx, s.b.JS, provider); err != nil {
				t.Fatal(err)
			}
		}
		if err := fleet.Retire(ctx, s.b.KV, "given-up", "bea", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		rounds := 0
		for name, scene := range scenes {
			for _, fault := range []brokertest.Fault{brokertest.RequestLost, brokertest.ReplyLost} {
				words := 0
				for lost := true; lost; words++ {
					rounds++
					s.Sweeper = New(s.js, s.log, s.board, Config{
						Known: func(string) bool { return false }, MaxLife: time.Minute, Backlog: 2, Logger: zap.NewNop(),
					})
					ended := scene(s, fetchworker.Identity{Provider: "left", Operation: "quote", Agent: "alice", ID: fmt.Sprint(rounds)})
					met := s.lines.Met()
					s.lines.BreakOne("", fault, words)
					err := s.pass(ctx)
					lost = s.lines.Met() > met // else there were no more words
					s.lines.Mend()
					if !ended() && err == nil && !s.more {
						t.Errorf("%s, word %d: it is undone, and nothing is told", name, words)
					}
					for n := 0; n < 3 && !ended(); n++ {
						if err := s.pass(ctx); err != nil {
							t.Errorf("%s, word %d: a later pass: %v", name, words, err)
						}
					}
					if !ended() {
						t.Errorf("%s, word %d: it is never done", name, words)
					}
					s.empties()
				}
				if words < 6 {
					t.Errorf("%s: a pass has only %d words", name, words)
				}
			}
		}
	})
}

// scenes put something into the queues that a sweep has to do with, each under an
// identity of its round, and tell whether it has come to its end.
var scenes = map[string]func(s *swept, i fetchworker.Identity) (ended func() bool){
	"a request that is old": func(s *swept, i fetchworker.Identity) func() bool {
		s.asks(i, "batch")
		time.Sleep(time.Minute)
		return s.ends(0, 0, s.lies(i, wire.ClassExpired, ""))
	},
	"what came back, and is old": func(s *swept, i fetchworker.Identity) func() bool {
		s.comesBack(i, 1, time.Now().Add(-time.Hour))
		return s.ends(0, 0, s.lies(i, wire.ClassExpired, ""))
	},
	"what came back to nobody": func(s *swept, i fetchworker.Identity) func() bool {
		i.Provider = "given-up"
		s.comesBack(i, 1, time.Now())
		return s.ends(0, 0, s.says(i, fetchworker.CodeProviderNotConfigured, ""))
	},
	"what a person sent back to nobody": func(s *swept, i fetchworker.Identity) func() bool {
		i.Provider = "given-up"
		s.comesBack(i, 2, time.Now())
		return s.ends(0, 0, s.lies(i, wire.ClassPermanent, fetchworker.CodeProviderNotConfigured))
	},
	"what came back, and waits": func(s *swept, i fetchworker.Identity) func() bool {
		s.comesBack(i, 1, time.Now())
		return s.ends(0, 1, s.says(i, "", fetchworker.ReasonNoWorker))
	},
	"a stray of what came back": func(s *swept, _ fetchworker.Identity) func() bool {
		s.ask(wire.StreamReplay, "fetch.replay.left.batch.QUéTE.alice.x", "{}")
		return s.ends(0, 0)
	},
	"a request to nobody": func(s *swept, i fetchworker.Identity) func() bool {
		i.Provider = "nobody"
		s.asks(i, "batch")
		return s.ends(0, 0, s.says(i, fetchworker.CodeUnknownProvider, ""))
	},
	"two requests in no lane": func(s *swept, i fetchworker.Identity) func() bool {
		other := i
		other.ID += "-other"
		s.asks(i, "urgent")
		s.asks(other, "urgent")
		return s.ends(0, 0, s.says(i, fetchworker.CodeInvalidRequest, ""), s.says(other, fetchworker.CodeInvalidRequest, ""))
	},
	"a request that waits": func(s *swept, i fetchworker.Identity) func() bool {
		s.asks(i, "interactive")
		return s.ends(1, 0, s.says(i, "", fetchworker.ReasonNoWorker))
	},
	"more than may wait": func(s *swept, i fetchworker.Identity) func() bool {
		var all []func() bool
		for n := range 4 {
			one := i
			one.ID += fmt.Sprint("-", n)
			s.asks(one, "batch")
			if n < 2 {
				all = append(all, s.says(one, "", fetchworker.ReasonNoWorker))
			} else {
				all = append(all, s.says(one, fetchworker.CodeBacklogFull, ""))
			}
		}
		return s.ends(2, 0, all...)
	},
	"strays": func(s *swept, _ fetchworker.Identity) func() bool {
		s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.QUéTE.alice", "{}")
		s.ask(fetchworker.StreamRequests, "fetch.request.nobody.batch.QUéTE.alice", "{}")
		return s.ends(0, 0)
	},
	"a stray that no filter finds": func(s *swept, _ fetchworker.Identity) func() bool {
		s.ask(fetchworker.StreamRequests, "fetch.request.*.batch.quote.alice", "{}")
		return s.ends(0, 0)
	},
}

// ends tells whether all of it is so, and so much is left in the two queues.
func (s *swept) ends(requests, released uint64, all ...func() bool) func() bool {
	return func() bool {
		for _, is := range all {
			if !is() {
				return false
			}
		}
		return s.look(fetchworker.StreamRequests).CachedInfo().State.Msgs == requests && s.look(wire.StreamReplay).CachedInfo().State.Msgs == released
	}
}

// says tells whether a request has a final answer of a code, or waits for a reason.
func (s *swept) says(i fetchworker.Identity, code fetchworker.Code, reason fetchworker.Reason) func() bool {
	answers := answer.New(record.New(s.b.JS, nil))
	return func() bool {
		a, err := answers.Read(s.t.Context(), i)
		return err == nil && a.Stands && a.Final == (code != "") && a.Problem.Code() == code && a.Problem.Reason() == reason
	}
}

// lies tells whether a request has a dead letter.
func (s *swept) lies(i fetchworker.Identity, class wire.Class, code fetchworker.Code) func() bool {
	log := record.New(s.b.JS, nil)
	return func() bool {
		raw, err := log.Last(s.t.Context(), wire.StreamDLQ, wire.DLQSubject(fetchworker.LaneBatch, i))
		if err != nil {
			return false
		}
		l, err := dlq.Decode(raw.Subject, raw.Header, raw.Data)
		return err == nil && l.Class == class && l.Code == code
	}
}

func (s *swept) asks(i fetchworker.Identity, lane string) {
	s.t.Helper()
	s.ask(fetchworker.StreamRequests, "fetch.request."+i.Provider+"."+lane+"."+i.Operation+"."+i.Agent, fmt.Sprintf(`{"id":%q}`, i.ID))
}

// comesBack has a letter be on its way back to work.
func (s *swept) comesBack(i fetchworker.Identity, generation int, at time.Time) {
	s.t.Helper()
	l := released(generation)
	l.Identity, l.RequestedAt, l.Body = i, at, fmt.Appendf(nil, `{"id":%q}`, i.ID)
	if _, err := s.b.JS.PublishMsg(s.t.Context(), l.Replayed()); err != nil {
		s.t.Fatal(err)
	}
}

// empties removes what a scene has left.
func (s *swept) empties() {
	s.t.Helper()
	for _, name := range []string{fetchworker.StreamRequests, wire.StreamReplay} {
		if err := s.look(name).Purge(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
}
