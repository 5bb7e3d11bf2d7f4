package fetchworker_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go/jetstream"
)

// service is a real server with the topology, and what a worker does seen
// from outside: it takes requests and stores answers.
type service struct {
	*brokertest.Broker
	t *testing.T
}

func startService(t *testing.T) *service {
	t.Helper()
	return &service{Broker: brokertest.Start(t), t: t}
}

func (s *service) client(agent string) *fetchworker.Client {
	s.t.Helper()
	nc := s.Connect(s.t)
	s.t.Cleanup(nc.Close)
	c, err := fetchworker.NewClient(nc, agent)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// onRequest runs answer for each request that comes, until the test ends.
func (s *service) onRequest(answer func(fetchworker.Request)) {
	s.t.Helper()
	ctx := context.Background()
	consumer, err := s.JS.CreateConsumer(ctx, fetchworker.StreamRequests, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		s.t.Fatal(err)
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		address, err := wire.ParseSubject(m.Subject())
		if err != nil {
			s.t.Error(err)
			return
		}
		r, err := fetchworker.DecodeRequest(m.Data())
		if err != nil {
			s.t.Errorf("%s: %v", m.Data(), err)
			return
		}
		r.Provider, r.Operation, r.Agent, r.Lane = address.Provider, address.Operation, address.Agent, address.Lane
		answer(r)
		if err := m.Ack(); err != nil {
			s.t.Error(err)
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		consuming.Stop()
		<-consuming.Closed()
	})
}

// store stores an answer as a worker does.
func (s *service) store(a fetchworker.Answer) {
	s.t.Helper()
	if a.Generation == 0 {
		a.Generation = 1
	}
	if _, err := s.JS.PublishMsg(context.Background(), a.Encode()); err != nil {
		s.t.Error(err)
	}
}

func ok(id fetchworker.Identity, body string) fetchworker.Answer {
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusOK, Final: true, Body: []byte(body), ContentType: "application/json"}
}

func waiting(id fetchworker.Identity) fetchworker.Answer {
	p := fetchworker.Waiting(id, fetchworker.ReasonCircuitOpen, "", time.Time{})
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusWaiting, Problem: &p}
}

func failed(id fetchworker.Identity) fetchworker.Answer {
	p := fetchworker.Failure(id, fetchworker.CodeNotFound, "no such symbol")
	return fetchworker.Answer{Identity: id, Status: fetchworker.StatusFailed, Final: true, Problem: &p}
}

func quote(id string) fetchworker.Request {
	return fetchworker.Request{Provider: "fmp", Operation: "quote", ID: id, Params: json.RawMessage(`{"symbol":"AAPL"}`)}
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSubmitStoresARequestOnceAnId(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	first, err := alice.Submit(soon(t), quote("q-1"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := alice.Submit(soon(t), quote("q-1"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.client("bob").Submit(soon(t), quote("q-1"))
	if err != nil {
		t.Fatal(err)
	}
	if first.Duplicate || !again.Duplicate || again.Sequence != first.Sequence || other.Duplicate {
		t.Errorf("first %+v, again %+v, another agent's %+v", first, again, other)
	}
	if want := (fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}); first.Identity != want {
		t.Errorf("identity %v", first.Identity)
	}
	stream, err := s.JS.Stream(t.Context(), fetchworker.StreamRequests)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d requests are stored, want alice's and bob's", n)
	}
	raw, err := stream.GetMsg(t.Context(), first.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	address, err := wire.ParseSubject(raw.Subject)
	if err != nil || address.Lane != fetchworker.LaneInteractive || address.Agent != "alice" {
		t.Errorf("stored under %s: %v", raw.Subject, err)
	}
}

func TestSubmitMakesIdsThatDiffer(t *testing.T) {
	alice := startService(t).client("alice")
	seen := map[string]bool{}
	for range 3 {
		receipt, err := alice.Submit(soon(t), quote(""))
		if err != nil {
			t.Fatal(err)
		}
		if id := receipt.Identity.ID; !fetchworker.ValidID(id) || len(id) < 20 || seen[id] {
			t.Errorf("id %q", id)
		}
		seen[receipt.Identity.ID] = true
	}
}

func TestSubmitRefusesWhatCannotBeRight(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	for name, edit := range map[string]func(*fetchworker.Request){
		"provider": func(r *fetchworker.Request) { r.Provider = "F MP" },
		"dots":     func(r *fetchworker.Request) { r.Operation = "quote.alice" },
		"id":       func(r *fetchworker.Request) { r.ID = "a b" },
		"lane":     func(r *fetchworker.Request) { r.Lane = "express" },
		"reply":    func(r *fetchworker.Request) { r.ReplyTo = "fetch.reply.bob.x" },
	} {
		r := quote("q")
		edit(&r)
		var wrong *fetchworker.RequestError
		if _, err := alice.Submit(soon(t), r); !errors.As(err, &wrong) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := alice.Fetch(soon(t), r); !errors.As(err, &wrong) {
			t.Errorf("%s: Fetch: %v", name, err)
		}
	}
	if _, err := fetchworker.NewClient(s.NC, "Alice!"); err == nil {
		t.Error("a client for a name that no agent can have")
	}
	large := quote("large")
	large.Params = json.RawMessage(`{"symbol":"` + string(bytes.Repeat([]byte("A"), fetchworker.MaxRequestBytes)) + `"}`)
	if _, err := alice.Submit(soon(t), large); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request that no queue takes: %v", err)
	}
}

func TestFetchWaitsForTheFinalAnswer(t *testing.T) {
	s := startService(t)
	s.onRequest(func(r fetchworker.Request) {
		s.store(waiting(r.Identity()))
		stale := ok(r.Identity(), `[1]`)
		stale.Status, stale.Final = fetchworker.StatusStale, false
		s.store(stale)
		s.store(ok(r.Identity(), `[2]`))
	})
	a, err := s.client("alice").Fetch(soon(t), quote(""))
	if err != nil || a.Status != fetchworker.StatusOK || !a.Final || string(a.Body) != `[2]` || a.Err() != nil {
		t.Errorf("%+v, %v", a, err)
	}
	if a.Identity.Agent != "alice" || a.Identity.Provider != "fmp" || a.Identity.ID == "" {
		t.Errorf("identity %v", a.Identity)
	}
}

// An answer that is there before the receipt is seen as it comes: nothing is
// looked up for it.
func TestAnAnswerFasterThanItsReceipt(t *testing.T) {
	wired(t, func(t *testing.T, w *wiredClient) {
		s := &service{w.Broker, t}
		s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), `[1]`)) })
		const n = 3
		w.Break("fetch.request", brokertest.ReplyLate, n, 200*time.Millisecond)
		before := w.nc.Stats().OutMsgs
		for range n {
			if _, err := w.Fetch(soon(t), quote("")); err != nil {
				t.Error(err)
			}
		}
		if said := w.nc.Stats().OutMsgs - before; said != n {
			t.Errorf("%d messages for %d requests", said, n)
		}
	})
}

func TestFetchReturnsAFailureAsAnAnswer(t *testing.T) {
	s := startService(t)
	s.onRequest(func(r fetchworker.Request) { s.store(failed(r.Identity())) })
	a, err := s.client("alice").Fetch(soon(t), quote(""))
	if err != nil {
		t.Fatal(err)
	}
	var p *fetchworker.Problem
	if !errors.As(a.Err(), &p) || p.Code() != fetchworker.CodeNotFound {
		t.Errorf("%+v", a)
	}
}

func TestFetchUnderAUsedIdReturnsTheStoredAnswer(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	s.store(ok(id, `[1]`))
	a, err := alice.Fetch(soon(t), quote("q-1")) // no worker is there to answer
	if err != nil || string(a.Body) != `[1]` {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestFetchEndsWithItsContextAndTheRequestGoesOn(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startService(t)
	alice := s.client("alice")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := alice.Fetch(ctx, quote("slow")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	s.onRequest(func(r fetchworker.Request) { s.store(ok(r.Identity(), `[1]`)) })
	a, err := alice.Wait(soon(t), fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "slow"})
	if err != nil || string(a.Body) != `[1]` {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWaitFindsWhatWasStoredBefore(t *testing.T) {
	s := startService(t)
	receipt, err := s.client("alice").Submit(soon(t), quote(""))
	if err != nil {
		t.Fatal(err)
	}
	s.store(ok(receipt.Identity, `[1]`))
	a, err := s.client("alice").Wait(soon(t), receipt.Identity)
	if err != nil || string(a.Body) != `[1]` {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestResultReadsTheLatestAnswer(t *testing.T) {
	s := startService(t)
	alice := s.client("alice")
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	if _, err := alice.Result(soon(t), id); !errors.Is(err, fetchworker.ErrNoAnswer) {
		t.Errorf("nothing is stored: %v", err)
	}
	s.store(waiting(id))
	if a, err := alice.Result(soon(t), id); err != nil || a.Final || a.Problem.Reason() != fetchworker.ReasonCircuitOpen {
		t.Errorf("%+v, %v", a, err)
	}
	s.store(ok(id, `[1]`))
	if a, err := alice.Result(soon(t), id); err != nil || !a.Final || a.Identity != id {
		t.Errorf("%+v, %v", a, err)
	}
}

// storeLarge stores an answer whose body lies in parts.
func (s *service) storeLarge(id fetchworker.Identity, body []byte, edit func(*fetchworker.Claim)) {
	s.t.Helper()
	sum := sha256.Sum256(body)
	claim := &fetchworker.Claim{Prefix: wire.BodyPrefix(id.Agent, hex.EncodeToString(sum[:])), Bytes: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}
	for rest := body; len(rest) > 0; {
		n := min(len(rest), fetchworker.MaxInlineBody)
		claim.Parts++
		if _, err := s.JS.Publish(context.Background(), claim.Prefix+"."+strconv.Itoa(claim.Parts), rest[:n]); err != nil {
			s.t.Fatal(err)
		}
		rest = rest[n:]
	}
	if edit != nil {
		edit(claim)
	}
	a := ok(id, "")
	a.Body, a.Claim = nil, claim
	s.store(a)
}

func TestALargeBodyIsReadFromItsParts(t *testing.T) {
	s := startService(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 3*fetchworker.MaxInlineBody/16)
	body = append(body, "end"...)
	s.onRequest(func(r fetchworker.Request) { s.storeLarge(r.Identity(), body, nil) })
	alice := s.client("alice")
	a, err := alice.Fetch(soon(t), quote("q-1"))
	if err != nil || !bytes.Equal(a.Body, body) || a.Claim.Parts != 4 {
		t.Errorf("%d bytes in %+v, %v", len(a.Body), a.Claim, err)
	}
	if a, err := alice.Result(soon(t), a.Identity); err != nil || !bytes.Equal(a.Body, body) {
		t.Errorf("read again: %d bytes, %v", len(a.Body), err)
	}
}

func TestALargeBodyThatIsNotWhatWasPromisedIsAnError(t *testing.T) {
	body := bytes.Repeat([]byte("x"), fetchworker.MaxInlineBody+1)
	for name, edit := range map[string]func(*fetchworker.Claim){
		"another sum":     func(c *fetchworker.Claim) { c.SHA256 = hex.EncodeToString(make([]byte, sha256.Size)) },
		"another length":  func(c *fetchworker.Claim) { c.Bytes-- },
		"a part too many": func(c *fetchworker.Claim) { c.Parts++ },
		"too few parts":   func(c *fetchworker.Claim) { c.Parts-- },
		"negative length": func(c *fetchworker.Claim) { c.Bytes = -1 },
		"absurd length":   func(c *fetchworker.Claim) { c.Bytes = 1 << 60 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // a part that is missing is looked for a while
			s := startService(t)
			alice := s.client("alice")
			s.onRequest(func(r fetchworker.Request) { s.storeLarge(r.Identity(), body, edit) })
			a, err := alice.Fetch(soon(t), quote("q-1"))
			if !errors.Is(err, fetchworker.ErrBodyCorrupt) || errors.Is(err, fetchworker.ErrNoAnswer) {
				t.Errorf("Fetch: %v", err)
			}
			if _, err := alice.Result(soon(t), a.Identity); !errors.Is(err, fetchworker.ErrBodyCorrupt) {
				t.Errorf("Result: %v", err)
			}
			if _, err := alice.Wait(soon(t), a.Identity); !errors.Is(err, fetchworker.ErrBodyCorrupt) {
				t.Errorf("Wait: %v", err)
			}
		})
	}
}

func TestConnectFindsAServerOrSaysSo(t *testing.T) {
	b := brokertest.StartIn(t, t.TempDir(), "127.0.0.1:0")
	defer b.Stop()
	c, err := fetchworker.Connect(b.Server.URL(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Submit(soon(t), quote("")); err != nil {
		t.Error(err)
	}
	if c, err := fetchworker.Connect(b.Server.URL(), "not an agent"); err == nil {
		c.Close()
		t.Error("connected as what no agent can be")
	}
	if c, err := fetchworker.Connect("nats://127.0.0.1:1", "alice"); err == nil {
		c.Close()
		t.Error("connected to nothing")
	}
	for _, address := range []string{"nats://u:s3cret/x@127.0.0.1:1", "nats://u:s3cret%@127.0.0.1:1", "u:s3cret#x@127.0.0.1:1", "127.0.0.1:1,nats://u:s3 cret@127.0.0.1:1"} {
		if _, err := fetchworker.Connect(address, "alice"); err == nil || strings.Contains(err.Error(), "s3") || !strings.Contains(err.Error(), "percent-encoded") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
