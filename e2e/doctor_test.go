package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
)

// TestTheDoctorNamesWhatIsTheMatter makes a running fleet ill in each of the
// ways that operators meet, one after the other. Each time the doctor names the
// cause and what cures it; what it names is done, to the letter where it is a
// command, and then it says that all is well.
func TestTheDoctorNamesWhatIsTheMatter(t *testing.T) {
	begin(t)
	if !full {
		t.Skip("two minutes: with FETCH_CHAOS=full")
	}
	p := newPatient(t)
	p.well(t)
	t.Run("provider down", p.providerDown)
	t.Run("an endpoint down", p.endpointDown)
	t.Run("wrong key", p.wrongKey)
	t.Run("quota gone", p.quotaGone)
	t.Run("quota gone, as the provider says", p.throttled)
	t.Run("no worker", p.noWorker)
	t.Run("no replayer", p.noReplayer)
	t.Run("store full", p.storeFull)
	t.Run("one agent's flood", p.flood)
	t.Run("one bad symbol", p.badSymbol)
	t.Run("a symbol that does not exist", p.noSuchSymbol)
	t.Run("clock skew", p.clockSkew)
	p.well(t)
}

// patient is a fleet with a provider that can be made ill.
type patient struct {
	*fleet
	worker, replayer *process
	asked            int

	ill atomic.Pointer[func(symbol, operation string) *providertest.Step] // nil: it answers well
}

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{}
	p.fleet = newFleet(t, func(r *http.Request) *providertest.Step {
		if ill := p.ill.Load(); ill != nil {
			if step := (*ill)(path.Base(r.URL.Path), path.Base(path.Dir(r.URL.Path))); step != nil {
				return step
			}
		}
		return well(0)(r)
	})
	p.env["FMP_REQUESTS_PER_MINUTE"] = "6000"
	p.env["FETCH_RETRY_BASE_SECONDS"], p.env["FETCH_RETRIES"], p.env["FETCH_CIRCUIT_OPEN_SECONDS"], p.env["USER"] = "0.2", "1", "2", "ann"
	p.worker, p.replayer = p.fleet.worker(), p.fleet.replayer()
	return p
}

// asks has so many quotes asked for on behalf of an agent.
func (p *patient) asks(t *testing.T, agent string, n int) (ids []fetchworker.Identity) {
	t.Helper()
	for range n {
		p.asked++
		ids = append(ids, p.asksFor(t, agent, "quote", fmt.Sprint("S", p.asked)))
	}
	return ids
}

func (p *patient) asksFor(t *testing.T, agent, operation, symbol string) fetchworker.Identity {
	t.Helper()
	p.asked++
	r := fetchworker.Request{Provider: "fmp", Operation: operation, Agent: agent, ID: fmt.Sprint("q-", p.asked), Params: params("fmp", symbol)}
	if err := p.submit(r); err != nil {
		t.Fatal(err)
	}
	return r.Identity()
}

func (p *patient) falls(ill func(symbol, operation string) *providertest.Step) { p.ill.Store(&ill) }

func (p *patient) recovers() { p.ill.Store(nil) }

// run runs a command as an operator does, in a shell.
func (p *patient) run(t *testing.T, line string, env ...string) (code int, words string) {
	t.Helper()
	vars := map[string]string{}
	for k, v := range p.env {
		vars[k] = v
	}
	for i := 0; i+1 < len(env); i += 2 {
		vars[env[i]] = env[i+1]
	}
	shell := launch(t, line, "/bin/sh", vars, "-c", `PATH="`+programs+`:$PATH"; `+line)
	code = shell.ended(t, time.Minute)
	return code, shell.log.tail(40)
}

func (p *patient) does(t *testing.T, line string) {
	t.Helper()
	if code, words := p.run(t, line); code != 0 {
		t.Errorf("%s: exit code %d\n%s", line, code, words)
	}
}

var cured = regexp.MustCompile(`(?m)^  cure: (.*)$`)

// diagnosed waits until the doctor's first finding is of this cause, and returns
// its cure.
func (p *patient) diagnosed(t *testing.T, finding, says string, env ...string) (cure string) {
	t.Helper()
	var words string
	deadline := time.Now().Add(40 * time.Second)
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		var code int
		code, words = p.run(t, "replayer doctor", env...)
		_, findings, _ := strings.Cut(words, "\n\n")
		first, rest, _ := strings.Cut(findings, "\n")
		if found := cured.FindStringSubmatch(rest); first == finding && code == 1 && found != nil && strings.Contains(rest, says) {
			t.Logf("after %v:\n%s", time.Since(began).Round(100*time.Millisecond), words)
			return found[1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the doctor does not name %q first, and say %q:\n%s", finding, says, words)
		}
	}
}

// well waits until the doctor says that all is.
func (p *patient) well(t *testing.T) {
	t.Helper()
	p.asks(t, "alice", 1)
	began := time.Now()
	for {
		code, words := p.run(t, "replayer doctor")
		if code == 0 {
			if !strings.HasPrefix(words, "well\n") {
				t.Errorf("exit code 0, and it says %s", words)
			}
			t.Logf("the doctor is content after %v:\n%s", time.Since(began).Round(100*time.Millisecond), words)
			return
		}
		if time.Since(began) > 40*time.Second {
			t.Fatalf("the doctor is not content: %s", words)
		}
		time.Sleep(200 * time.Millisecond)
		p.asks(t, "alice", 1) // a fleet that nobody asks shows the limits of its last call
	}
}

// commands are the commands among the words of a cure.
func commands(cure string) (lines []string) {
	for _, part := range regexp.MustCompile(`;|, (?:then|or|with|in) | then `).Split(cure, -1) {
		part = strings.TrimPrefix(strings.TrimSpace(part), "then ")
		if first, _, _ := strings.Cut(strings.TrimLeft(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_=0123456789abcdefghijklmnopqrstuvwxyz"), " "); strings.HasPrefix(part, "replayer ") || strings.Contains(part, " worker apply") || first == "worker" {
			lines = append(lines, part)
		}
	}
	return lines
}

func (p *patient) providerDown(t *testing.T) {
	p.falls(func(string, string) *providertest.Step {
		step := providertest.JSON(http.StatusServiceUnavailable, `{"message":"maintenance"}`)
		return &step
	})
	p.asks(t, "alice", 3)
	for _, operation := range []string{"profile", "key_metrics", "profile"} {
		p.asksFor(t, "bob", operation, fmt.Sprint("D", p.asked))
	}
	cure := p.diagnosed(t, "fmp provider_down", "the provider is down")
	p.recovers()
	p.does(t, commands(cure)[0])
	p.well(t)
}

func (p *patient) endpointDown(t *testing.T) {
	p.falls(func(_, operation string) *providertest.Step {
		if operation != "quote" {
			return nil
		}
		step := providertest.JSON(http.StatusInternalServerError, `{"message":"oops"}`)
		return &step
	})
	// The others go on working meanwhile.
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond): //nolint:forbidigo // beside a channel
			}
			r := fetchworker.Request{Provider: "fmp", Operation: "profile", Agent: "bob", ID: fmt.Sprint("p-", n), Params: params("fmp", fmt.Sprint("P", n))}
			_ = p.submit(r) // counted by nobody
		}
	})
	p.asks(t, "alice", 3)
	p.asks(t, "carol", 3)
	cure := p.diagnosed(t, "fmp provider_down", "quote")
	close(stop)
	others.Wait()
	p.recovers()
	p.does(t, commands(cure)[0])
	p.well(t)
}

func (p *patient) wrongKey(t *testing.T) {
	p.falls(func(string, string) *providertest.Step {
		step := providertest.JSON(http.StatusUnauthorized, `{"Error Message":"Invalid API KEY."}`)
		return &step
	})
	p.asks(t, "alice", 2)
	cure := p.diagnosed(t, "fmp wrong_key", "refuses the key")
	if strings.Contains(cure, aKey) {
		t.Error("the key is told")
	}
	p.recovers()
	lines := commands(cure)
	p.does(t, lines[len(lines)-1])
	p.well(t)
}

func (p *patient) quotaGone(t *testing.T) {
	p.does(t, `replayer limit fmp 3/h --reason "somebody else needs them"`)
	p.asks(t, "alice", 6)
	cure := p.diagnosed(t, "fmp quota_gone", "until")
	if _, words := p.run(t, commands(cure)[0]); !strings.Contains(words, "alice") {
		t.Errorf("it does not say who used it up: %s", words)
	}
	p.does(t, `replayer limit fmp default --reason "they do not"`)
	p.well(t)
}

func (p *patient) throttled(t *testing.T) {
	p.falls(func(string, string) *providertest.Step {
		step := providertest.JSON(http.StatusTooManyRequests, `{"Error Message":"Limit Reach."}`)
		step.Header.Set("Retry-After", "600")
		return &step
	})
	p.asks(t, "alice", 2)
	p.diagnosed(t, "fmp quota_gone", "asked for a hold until")
	p.recovers()
	p.does(t, `replayer resume fmp --reason "vendor says fixed"`)
	p.well(t)
}

func (p *patient) noWorker(t *testing.T) {
	p.worker.kill()
	p.asks(t, "alice", 2)
	cure := p.diagnosed(t, "fmp no_worker", "requests wait")
	if !strings.HasPrefix(cure, "worker") {
		t.Errorf("the cure is %s", cure)
	}
	p.worker = p.fleet.worker()
	p.well(t)
}

func (p *patient) noReplayer(t *testing.T) {
	p.replayer.signal(t, syscall.SIGTERM)
	p.replayer.ended(t, 20*time.Second)
	if cure := p.diagnosed(t, "no_replayer", "waits for ever"); cure != "replayer run" {
		t.Errorf("the cure is %s", cure)
	}
	p.replayer = p.fleet.replayer()
	p.well(t)
}

func (p *patient) storeFull(t *testing.T) {
	s, err := p.js.Stream(t.Context(), fetchworker.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.MaxBytes = int64(s.CachedInfo().State.Bytes)
	if _, err := p.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	p.asks(t, "alice", 1)
	cure := p.diagnosed(t, "store_full", "results")
	p.does(t, commands(cure)[0])
	p.well(t)
	config.MaxBytes = 1 << 30 // twice as much of next to nothing does not last
	if _, err := p.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

func (p *patient) flood(t *testing.T) {
	p.does(t, `replayer limit fmp 60/min --reason "as the provider has it"`)
	p.asks(t, "alice", 2)
	p.asks(t, "mallory", 400)
	cure := p.diagnosed(t, "fmp agent_flood", "mallory has")
	for _, line := range commands(cure) {
		p.does(t, strings.TrimSuffix(line, " --yes")+yes(line))
	}
	p.does(t, `replayer resume fmp --reason "over"`)
	p.does(t, `replayer limit fmp default --reason "over"`)
	p.well(t)
}

// yes answers for a person what a command asks where many are touched.
func yes(line string) string {
	if strings.Contains(line, " cancel ") || strings.Contains(line, " discard ") {
		return " --yes"
	}
	return ""
}

func (p *patient) badSymbol(t *testing.T) {
	p.falls(func(symbol, _ string) *providertest.Step {
		if symbol != "BROKEN" {
			return nil
		}
		step := providertest.JSON(http.StatusInternalServerError, `{"message":"internal error"}`)
		return &step
	})
	for range 4 {
		p.asksFor(t, "bob", "quote", "BROKEN")
		for _, id := range p.asks(t, "alice", 3) { // that others succeed tells a bad request from a bad provider
			p.final(id, time.Minute)
		}
	}
	cure := p.diagnosed(t, "fmp bad_request", "bob")
	for _, line := range commands(cure) {
		p.does(t, line+yes(line))
	}
	p.recovers()
	p.does(t, `replayer resume fmp --reason "bob has stopped"`)
	p.well(t)
}

// A symbol that the provider does not know fails each time, and comes to
// nobody's review: that is the agent's answer.
func (p *patient) noSuchSymbol(t *testing.T) {
	p.falls(func(symbol, _ string) *providertest.Step {
		if symbol != "NOSUCH" {
			return nil
		}
		step := providertest.JSON(http.StatusNotFound, `{"Error Message":"no such symbol"}`)
		return &step
	})
	for range 60 {
		p.final(p.asksFor(t, "bob", "quote", "NOSUCH"), time.Minute)
	}
	cure := p.diagnosed(t, "fmp failing", "404")
	if _, words := p.run(t, commands(cure)[0]); !strings.Contains(words, "404") {
		t.Errorf("it does not say what fails: %s", words)
	}
	p.recovers()
	p.asks(t, "alice", 100)
	p.well(t)
}

// The doctor's machine and the server's disagree about the time by a minute.
func (p *patient) clockSkew(t *testing.T) {
	at := withAnotherClock(t, p.env["NATS_URL"], time.Minute)
	if cure := p.diagnosed(t, "clock_skew", "1m", "NATS_URL", at); !strings.HasPrefix(cure, "timedatectl") {
		t.Errorf("the cure is %s", cure)
	}
	p.well(t)
}

var stamp = regexp.MustCompile(`"ts":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)`)

// withAnotherClock is a server whose clock is off: the same, on an address where what it
// says of the time is changed on its way.
func withAnotherClock(t *testing.T, server string, by time.Duration) (address string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passing sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); passing.Wait() })
	passing.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", u.Host)
			if err != nil {
				_ = client.Close()
				continue
			}
			passing.Go(func() {
				_, _ = io.Copy(up, client)
				_ = up.Close()
			})
			passing.Go(func() {
				defer func() { _ = client.Close() }()
				for buffer := make([]byte, 1<<20); ; {
					n, err := up.Read(buffer)
					if n == 0 && err != nil {
						return
					}
					_, _ = client.Write(stamp.ReplaceAllFunc(buffer[:n], func(text []byte) []byte {
						at, err := time.Parse("2006-01-02T15:04:05", string(bytes.TrimPrefix(text, []byte(`"ts":"`))))
						if err != nil {
							return text
						}
						return []byte(`"ts":"` + at.Add(by).Format("2006-01-02T15:04:05"))
					}))
				}
			})
		}
	})
	return "nats://" + ln.Addr().String()
}
