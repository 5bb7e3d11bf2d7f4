package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"
)

// bodyToRead is the nth of the large bodies that are read.
func bodyToRead(n, size int) []byte {
	body := bytes.Repeat(fmt.Appendf(nil, `{"symbol":"S%d","price":%d.25,"volume":1234567},`, n, n), size/40)[:size]
	body[0], body[size-1] = '[', ']'
	return body
}

// sumOf tells bodies apart, at the pace of memory.
func sumOf(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// keepLarge stores an answer with a large body, as a worker does.
func (f *fleet) keepLarge(id fetchworker.Identity, body []byte) {
	f.t.Helper()
	sum := sha256.Sum256(body)
	a := fetchworker.Answer{
		Identity: id, Status: fetchworker.StatusOK, Final: true, Generation: 1, ContentType: "application/json", HTTPStatus: http.StatusOK,
		Source: fetchworker.SourceOrigin, FetchedAt: time.Now(), SHA256: hex.EncodeToString(sum[:]),
	}
	a.Claim = &fetchworker.Claim{Prefix: wire.BodyPrefix(id.Agent, a.SHA256), Bytes: int64(len(body)), SHA256: a.SHA256}
	for rest := body; len(rest) > 0; {
		n := min(len(rest), fetchworker.MaxInlineBody)
		a.Claim.Parts++
		if _, err := f.js.Publish(f.t.Context(), a.Claim.Prefix+"."+strconv.Itoa(a.Claim.Parts), rest[:n]); err != nil {
			f.t.Fatal(err)
		}
		rest = rest[n:]
	}
	if _, err := f.js.PublishMsg(f.t.Context(), a.Encode()); err != nil {
		f.t.Fatal(err)
	}
}

// read is what came of reading large bodies beside small answers.
type read struct {
	took          time.Duration
	alone, beside laps
	errs          []error
}

// readAll reads the large bodies, so many times at once, and asks for small
// answers before and meanwhile.
func readAll(readers, smalls int, large func(n int) error, small func(*laps, int) error) *read {
	r := new(read)
	var mu sync.Mutex
	wrong := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			r.errs = append(r.errs, err)
		}
	}
	asked := 0
	ask := func(l *laps) {
		asked++
		wrong(small(l, asked))
		time.Sleep(20 * time.Millisecond)
	}
	for range smalls {
		ask(&r.alone)
	}
	began := time.Now()
	var reading sync.WaitGroup
	for n := range readers {
		reading.Go(func() { wrong(large(n)) })
	}
	all := make(chan struct{})
	go func() {
		reading.Wait()
		close(all)
	}()
	for {
		ask(&r.beside)
		select {
		case <-all:
			r.took = time.Since(began)
			return r
		default:
		}
	}
}

// readerRole is the argument that makes the test binary an agent that reads
// large answers, and allRead what it says when it has.
const (
	readerRole = "read-large-answers"
	allRead    = "all is read:"
)

// readLarge reads as an agent's program does: each body is there as a whole, and
// let go of once it was looked at.
func readLarge(args []string) {
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			panic(err)
		}
		return n
	}
	url, bodies, size, readers, smalls := args[0], number(args[1]), number(args[2]), number(args[3]), number(args[4])
	client, err := fetchworker.Connect(url, "large")
	if err != nil {
		panic(err)
	}
	sums := make([]uint32, bodies)
	for n := range sums {
		sums[n] = sumOf(bodyToRead(n, size))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	r := readAll(readers, smalls, func(n int) error {
		a, err := client.Wait(ctx, largeID(n%bodies))
		if err == nil && (len(a.Body) != size || sumOf(a.Body) != sums[n%bodies]) {
			err = fmt.Errorf("%w: %d bytes", errNotWell, len(a.Body))
		}
		return err
	}, func(l *laps, n int) error {
		symbol := fmt.Sprint("client-", n)
		return l.fetch(ctx, client, fetchworker.Request{Provider: "small", Operation: "page", Params: fmt.Appendf(nil, `{"symbol":%q}`, symbol)}, symbol)
	})
	fmt.Println(allRead, r.took.Milliseconds(), r.alone.p50().Microseconds(), r.alone.p99().Microseconds(), r.beside.p50().Microseconds(), r.beside.p99().Microseconds(), len(r.beside.all), errors.Join(r.errs...))
	time.Sleep(time.Hour) // its memory is looked at, and it is killed
	panic("nobody has ended the reader")
}

func largeID(n int) fetchworker.Identity {
	return fetchworker.Identity{Provider: "one", Operation: "page", Agent: "large", ID: fmt.Sprint("L", n)}
}

// TestLargeAnswersAreReadBesideSmallOnes has an agent's program, and a gateway,
// read many large bodies from the store at once. Each stays within its memory,
// and small answers that go the same way are as quick as before. FETCH_LARGE is
// how many; FETCH_CGROUP a folder of a cgroup whose limit they have instead of
// GOMEMLIMIT, of which a client of ours knows nothing: its program sets it.
func TestLargeAnswersAreReadBesideSmallOnes(t *testing.T) {
	begin(t)
	if strings.Contains(os.Getenv("GOFLAGS"), "-race") {
		t.Skip("the race detector takes as much memory again, many times over")
	}
	readers, bodies, size, smalls, limit, bound := pick(12, 200), pick(2, 16), pick(8, 60)*mib, pick(10, 200), pick("96MiB", "400MiB"), pick(160, 400)
	if only, err := strconv.Atoi(os.Getenv("FETCH_LARGE")); err == nil {
		readers = only
	}
	f := newFleet(t, func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, `{"small":true}`)
		return &step
	})
	f.env["FETCH_CATALOG"] = catalogueOfFive(t, f.upstream.URL())
	f.worker()
	f.env["GOMEMLIMIT"] = limit
	if f.cgroup = os.Getenv("FETCH_CGROUP"); f.cgroup != "" {
		delete(f.env, "GOMEMLIMIT")
	}
	sums := make([]uint32, bodies)
	for n := range bodies {
		body := bodyToRead(n, size)
		sums[n] = sumOf(body)
		f.keepLarge(largeID(n), body)
	}
	judge := func(what string, p *process, took, alone, beside time.Duration, more string) {
		t.Helper()
		peak := peak(t, p)
		t.Logf("%s: %d of %d MiB read in %v, %d MiB at the most; small answers' p99 %v alone, %v beside them (%s)",
			what, readers, size/mib, took, peak, alone, beside, more)
		if peak > bound {
			t.Errorf("%s: %d MiB, %d are allowed", what, peak, bound)
		}
		if full && beside > 3*alone+5*time.Millisecond {
			t.Errorf("%s: small answers take three times as long", what)
		}
		if p.gone() {
			t.Errorf("%s is dead", what)
		}
		for _, name := range []string{"memory.limit_in_bytes", "memory.max", "memory.max_usage_in_bytes", "memory.peak", "memory.failcnt"} {
			if told, err := os.ReadFile(filepath.Join(f.cgroup, name)); err == nil && f.cgroup != "" {
				t.Logf("of its cgroup: %s %s", name, bytes.TrimSpace(told))
			}
		}
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"GOMEMLIMIT": limit}
	agent := f.run("an agent", self, env, readerRole, f.env["NATS_URL"], strconv.Itoa(bodies), strconv.Itoa(size), strconv.Itoa(readers), strconv.Itoa(smalls))
	until(t, 10*time.Minute, "all is read", func() bool { return agent.log.find(allRead) != "" || agent.gone() })
	var ms, alone50, alone99, beside50, beside99, asked int64
	var wrong string
	if n, _ := fmt.Sscanln(strings.TrimPrefix(agent.log.find(allRead), allRead), &ms, &alone50, &alone99, &beside50, &beside99, &asked, &wrong); n != 7 || wrong != "<nil>" {
		t.Fatalf("the agent says %s", agent.log.tail(5))
	}
	micro := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	judge("an agent", agent, time.Duration(ms)*time.Millisecond, micro(alone99), micro(beside99), fmt.Sprint(asked, " asked, p50 ", micro(alone50), " and ", micro(beside50)))
	agent.kill()

	gateway := f.spawn("gateway", "FETCH_GATEWAY_ADDR", "127.0.0.1:0")
	door := "http://" + field(t, gateway.says(t, `"gateway serves"`), "addr")
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: 10 * time.Minute}
	defer client.CloseIdleConnections()
	get := func(path string, read func(io.Reader) error) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, door+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Fetch-Agent", "large")
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%w: %s", errNotWell, res.Status)
		}
		return read(res.Body)
	}
	r := readAll(readers, smalls, func(n int) error {
		return get("/v1/requests/one/page/"+largeID(n%bodies).ID, func(body io.Reader) error {
			sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
			if n, err := io.Copy(sum, body); err != nil || n != int64(size) {
				return fmt.Errorf("%w: %d bytes, %w", errNotWell, n, err)
			}
			if sum.Sum32() != sums[n%bodies] {
				return fmt.Errorf("%w with another body", errNotWell)
			}
			return nil
		})
	}, func(l *laps, n int) error {
		began := time.Now()
		err := get(fmt.Sprintf("/v1/small/page?symbol=gateway-%d", n), func(body io.Reader) error {
			_, err := io.Copy(io.Discard, body)
			return err
		})
		l.all = append(l.all, lap{began: began, came: time.Now()})
		return err
	})
	if err := errors.Join(r.errs...); err != nil {
		t.Error(err)
	}
	judge("the gateway", gateway, r.took.Round(time.Millisecond), r.alone.p99(), r.beside.p99(), fmt.Sprint(len(r.beside.all), " asked, p50 ", r.alone.p50(), " and ", r.beside.p50()))
}
