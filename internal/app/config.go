// Package app is what both daemons are started with: configuration from the
// environment, the logger, the HTTP listener for metrics and health, and a
// shutdown in order. It starts things and does not know which.
package app

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/dial"
	"fetchworker/internal/memory"
)

// Config is everything that the environment decides about a daemon, but for
// the providers' own variables.
type Config struct {
	NATS     dial.Address  // NATS_URL, NATS_CREDS, NATS_CONTEXT, NATS_INBOX_PREFIX; no URL or context: embed a server
	NATSAddr string        // FETCH_NATS_ADDR: where an embedded server listens, loopback only
	DataDir  string        // FETCH_DATA_DIR: where an embedded server keeps its files
	Sync     time.Duration // FETCH_SYNC: 0 is always, else the server's lazy interval

	Replay string // FETCH_REPLAY: auto (with an embedded server), on, off

	HTTPAddr    string // FETCH_HTTP_ADDR: metrics and health
	PageAddr    string // FETCH_PAGE_ADDR: the operators' page; off serves none
	PageToken   string // FETCH_PAGE_TOKEN: who may open it; none: whoever is on this machine
	PageTrace   string // FETCH_PAGE_TRACE_URL: where traces are looked at, with {trace} for the id
	Pprof       string // FETCH_PPROF: where profiles are, loopback only; "" for nowhere
	Gateway     Gateway
	Concurrency int   // FETCH_CONCURRENCY: calls in flight per provider
	BodyMemory  int64 // FETCH_BODY_MEMORY: bytes that large bodies may take of a worker's memory

	Topology broker.Options // FETCH_REPLICAS, FETCH_RESULT_AGE, FETCH_STREAM_BYTES, FETCH_STREAM_AGE, as far as they are set

	ResultAge       time.Duration // FETCH_RESULT_AGE: how long answers are kept
	AgentBacklog    int           // FETCH_AGENT_BACKLOG: how many requests one agent may have waiting
	MaxLife         time.Duration // FETCH_MAX_LIFE: how long a request may live
	CircuitOpen     time.Duration // FETCH_CIRCUIT_OPEN_SECONDS
	CircuitFailures int           // FETCH_CIRCUIT_FAILURES: different requests in a row; 0 turns circuits off
	RetryBase       time.Duration // FETCH_RETRY_BASE_SECONDS: wait after the first failure
	Retries         int           // FETCH_RETRIES after the first call

	LogLevel  string // FETCH_LOG_LEVEL: debug, info, warn, error
	LogFormat string // FETCH_LOG_FORMAT: json, console, or auto: console on a terminal
	NoColor   bool   // NO_COLOR, as no-color.org has it
}

// shortestToken is how long a token is at least, in bytes.
const shortestToken = 16

// ErrConfig is wrapped by every error about the environment.
var ErrConfig = errors.New("configuration")

// Load reads the configuration. Its error names every variable that is wrong.
func Load(getenv func(string) string) (Config, error) {
	r := reader{getenv: getenv}
	c := Config{
		NATS:            dial.Address{URL: getenv("NATS_URL"), Creds: getenv("NATS_CREDS"), Context: getenv("NATS_CONTEXT"), Inbox: getenv("NATS_INBOX_PREFIX")},
		NATSAddr:        r.text("FETCH_NATS_ADDR", "127.0.0.1:4222"),
		DataDir:         r.text("FETCH_DATA_DIR", "./data"),
		Replay:          r.oneOf("FETCH_REPLAY", "auto", "on", "off"),
		HTTPAddr:        r.text("FETCH_HTTP_ADDR", "127.0.0.1:8080"),
		PageAddr:        r.text("FETCH_PAGE_ADDR", "127.0.0.1:8090"),
		PageToken:       getenv("FETCH_PAGE_TOKEN"),
		PageTrace:       r.trace("FETCH_PAGE_TRACE_URL"),
		Concurrency:     r.whole("FETCH_CONCURRENCY", 16, 1, 10_000),
		ResultAge:       r.duration("FETCH_RESULT_AGE", broker.StandardResultAge),
		BodyMemory:      r.size("FETCH_BODY_MEMORY", bodyMemory(), memory.MaxBody),
		AgentBacklog:    r.whole("FETCH_AGENT_BACKLOG", broker.StandardAgentBacklog, 1, 10_000_000),
		MaxLife:         r.duration("FETCH_MAX_LIFE", 72*time.Hour),
		CircuitOpen:     r.seconds("FETCH_CIRCUIT_OPEN_SECONDS", 60),
		CircuitFailures: r.whole("FETCH_CIRCUIT_FAILURES", 3, 0, 1000),
		RetryBase:       r.seconds("FETCH_RETRY_BASE_SECONDS", 1),
		Retries:         r.whole("FETCH_RETRIES", 3, 0, 100),
		LogLevel:        r.oneOf("FETCH_LOG_LEVEL", "info", "debug", "warn", "error"),
		LogFormat:       r.oneOf("FETCH_LOG_FORMAT", "auto", "json", "console"),
		NoColor:         getenv("NO_COLOR") != "",
	}
	if r.oneOf("FETCH_SYNC", "always", "interval") == "interval" {
		c.Sync = 2 * time.Minute // the server's own default
	}
	if len(r.errs) == 0 && c.MaxLife > c.ResultAge-24*time.Hour {
		r.fail("FETCH_MAX_LIFE", fmt.Sprintf("must be at least a day shorter than FETCH_RESULT_AGE (%v), or a request could outlive its answer; it is %v", c.ResultAge, c.MaxLife))
	}
	c.Topology = broker.Options{Replicas: r.whole("FETCH_REPLICAS", 0, 1, 5), MaxLife: c.MaxLife, AgentBacklog: c.AgentBacklog, Bytes: r.streamBytes("FETCH_STREAM_BYTES"), Ages: r.streamAges("FETCH_STREAM_AGE")}
	if getenv("FETCH_RESULT_AGE") != "" {
		c.Topology.ResultAge = c.ResultAge
	}
	c.Pprof = r.profiles("FETCH_PPROF", c.HTTPAddr)
	c.Gateway = r.gateway()
	r.addresses(c)
	return c, errors.Join(r.errs...)
}

// addresses checks what would only be found when it is used.
func (r *reader) addresses(c Config) {
	if c.HTTPAddr != "off" && !hasPort(c.HTTPAddr) {
		r.fail("FETCH_HTTP_ADDR", fmt.Sprintf("must be host:port, :port or off; it is %q", c.HTTPAddr))
	}
	if c.PageAddr != "off" {
		if !hasPort(c.PageAddr) {
			r.fail("FETCH_PAGE_ADDR", fmt.Sprintf("must be host:port or off; it is %q", c.PageAddr))
		} else if _, _, err := broker.ListenAddress(c.PageAddr); err != nil && len(c.PageToken) < shortestToken {
			r.fail("FETCH_PAGE_TOKEN", fmt.Sprintf("must have %d characters or more where FETCH_PAGE_ADDR is not loopback: whoever opens the page can act", shortestToken))
		}
	}
	if !c.NATS.Remote() {
		if _, _, err := broker.ListenAddress(c.NATSAddr); err != nil {
			r.fail("FETCH_NATS_ADDR", fmt.Sprintf("must be a loopback host:port: %v", err))
		}
		return
	}
	for server := range strings.SplitSeq(c.NATS.URL, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		if _, err := url.Parse(server); err != nil { // not told: it may hold a password
			r.fail("NATS_URL", "must be a URL such as nats://127.0.0.1:4222, or some with commas between them")
			break
		}
	}
	if c.NATS.Creds != "" {
		if _, err := os.Stat(c.NATS.Creds); err != nil {
			r.fail("NATS_CREDS", "must be a file of credentials: "+err.Error())
		}
	}
}

// hasPort reports whether an address ends in a port that there can be.
func hasPort(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	n, e := strconv.Atoi(port)
	return err == nil && e == nil && n >= 0 && n <= 65535
}

// profiles is where profiles are to be: beside metrics and health, or on an
// address of their own. A heap dump holds keys, so it stays on this machine.
func (r *reader) profiles(name, httpAddr string) string {
	addr := r.getenv(name)
	switch addr {
	case "", "off":
		return ""
	case "on":
		addr = httpAddr
	}
	if _, _, err := broker.ListenAddress(addr); err != nil {
		r.fail(name, fmt.Sprintf("must be off, on where FETCH_HTTP_ADDR is loopback, or a loopback host:port of its own: a profile may hold a key; it is %q with FETCH_HTTP_ADDR=%s", r.getenv(name), httpAddr))
		return ""
	}
	return addr
}

// streamBytes reads results=8GiB,bodies=unlimited.
func (r *reader) streamBytes(name string) map[string]int64 {
	return perStream(r, name, "results=8GiB,bodies=unlimited", func(stream, text string) (int64, error) {
		if text == "unlimited" {
			return -1, nil
		}
		if size, ok := sizeOf(text); ok {
			return size, nil
		}
		return 0, fmt.Errorf("%s=%s is no size", stream, text)
	})
}

// sizeOf reads a size with its unit, in bytes.
func sizeOf(text string) (int64, bool) {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"", 1}} {
		number, is := strings.CutSuffix(text, unit.name)
		if !is {
			continue
		}
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || !(n >= 1) || n*float64(unit.size) > 1<<60 {
			break
		}
		return int64(n * float64(unit.size)), true
	}
	return 0, false
}

// size is one with its unit, such as 128MiB.
func (r *reader) size(name string, standard, least int64) int64 {
	v := r.getenv(name)
	if v == "" {
		return standard
	}
	n, ok := sizeOf(v)
	if !ok || n < least {
		r.fail(name, fmt.Sprintf("must be a size such as 128MiB, at least %d MiB; it is %q", least>>20, v))
		return standard
	}
	return n
}

// streamAges reads events=30d,audit=forever.
func (r *reader) streamAges(name string) map[string]time.Duration {
	return perStream(r, name, "events=30d,audit=forever", func(stream, text string) (time.Duration, error) {
		switch stream {
		case "events", "audit", "cache":
		case "results", "bodies":
			return 0, fmt.Errorf("the age of %s is FETCH_RESULT_AGE", stream)
		default:
			return 0, fmt.Errorf("%s keeps what it holds: with an age it would lose it", stream)
		}
		if text == "forever" {
			return 0, nil
		}
		if days, is := strings.CutSuffix(text, "d"); is {
			text = days + "h"
			d, err := time.ParseDuration(text)
			if err == nil && d > 0 && d < 100*365*time.Hour {
				return 24 * d, nil
			}
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Hour {
			return 0, fmt.Errorf("%s=%s is no age", stream, text)
		}
		return d, nil
	})
}

// perStream reads a list of stream=value, under the streams' own names.
func perStream[T any](r *reader, name, example string, read func(stream, text string) (T, error)) map[string]T {
	set := map[string]T{}
	names := broker.StreamNames()
	for pair := range strings.SplitSeq(r.getenv(name), ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		short, text, _ := strings.Cut(pair, "=")
		stream, known := names[short]
		if !known {
			r.fail(name, fmt.Sprintf("must be such as %s; there is no stream %q among %s", example, short, strings.Join(slices.Sorted(maps.Keys(names)), ", ")))
			continue
		}
		if _, twice := set[stream]; twice {
			r.fail(name, fmt.Sprintf("must be such as %s, each stream once; %s is there twice", example, short))
			continue
		}
		value, err := read(short, text)
		if err != nil {
			r.fail(name, fmt.Sprintf("must be such as %s: %v", example, err))
			continue
		}
		set[stream] = value
	}
	return set
}

type reader struct {
	getenv func(string) string
	errs   []error
}

func (r *reader) fail(name, want string) {
	r.errs = append(r.errs, fmt.Errorf("%w: %s %s", ErrConfig, name, want))
}

func (r *reader) text(name, standard string) string {
	if v := r.getenv(name); v != "" {
		return v
	}
	return standard
}

// trace is a URL with {trace} in it. It is a link on the page, so nothing but
// the two kinds that lead somewhere.
func (r *reader) trace(name string) string {
	v := r.getenv(name)
	u, err := url.Parse(strings.ReplaceAll(v, "{trace}", "0"))
	if v != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !strings.Contains(v, "{trace}")) {
		r.fail(name, fmt.Sprintf("must be a URL such as https://traces.example.com/trace/{trace}; it is %q", v))
		return ""
	}
	return v
}

func (r *reader) oneOf(name, standard string, others ...string) string {
	v := r.getenv(name)
	if v == "" || v == standard {
		return standard
	}
	for _, other := range others {
		if v == other {
			return v
		}
	}
	r.fail(name, fmt.Sprintf("must be one of %s; it is %q", strings.Join(append([]string{standard}, others...), ", "), v))
	return standard
}

func (r *reader) whole(name string, standard, least, most int) int {
	v := r.getenv(name)
	if v == "" {
		return standard
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		r.fail(name, fmt.Sprintf("must be a whole number from %d to %d; it is %q", least, most, v))
		return standard
	}
	return n
}

func (r *reader) duration(name string, standard time.Duration) time.Duration {
	v := r.getenv(name)
	if v == "" {
		return standard
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		r.fail(name, fmt.Sprintf("must be a duration such as %v; it is %q", standard, v))
		return standard
	}
	return d
}

const (
	leastSeconds = 1e-9 // less is a duration of nothing
	mostSeconds  = 1e6
)

// seconds takes fractions.
func (r *reader) seconds(name string, standard float64) time.Duration {
	v := r.getenv(name)
	n := standard
	if v != "" {
		var err error
		if n, err = strconv.ParseFloat(v, 64); err != nil || !(n >= leastSeconds) || n > mostSeconds {
			r.fail(name, fmt.Sprintf("must be a number of seconds above 0 and up to %.0f; it is %q", mostSeconds, v))
			n = standard
		}
	}
	return time.Duration(n * float64(time.Second))
}
