package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	_ "net/http/pprof" // what a role does is told beside its metrics
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// process is a contender's worker or a server, as a process of its own.
type process struct {
	cmd     *exec.Cmd
	address string // where it listens
	debug   string // where it tells its metrics; "" if it does not
	log     string // file with what it said
	exited  chan struct{}
}

// start runs a command until stop. Its output goes into a file.
func start(dir, name string, env []string, exe string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(exe, args...), log: log.Name(), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A bench that is killed leaves nothing behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	alive.Store(p, nil)
	go func() {
		_ = p.cmd.Wait()
		alive.Delete(p)
		close(p.exited)
	}()
	return p, nil
}

// alive are all processes that run, each a *process.
var alive sync.Map

// endAll ends what still runs and should not: of a contender that could not be
// started whole, or could not go on.
func endAll() {
	alive.Range(func(p, _ any) bool {
		p.(*process).kill() //nolint:forcetypeassert,errcheck // nothing else is stored
		return true
	})
}

// startRole runs this program in another role and waits until it is ready.
func startRole(dir, role string, env ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := start(dir, role, env, self, role)
	if err != nil {
		return nil, err
	}
	err = eventually(30*time.Second, func() bool {
		select {
		case <-p.exited:
			return true
		default:
		}
		said, _ := os.ReadFile(p.log)
		for line := range strings.Lines(string(said)) {
			if _, err := fmt.Sscanf(line, "ready %s %s", &p.address, &p.debug); err == nil {
				return true
			}
		}
		return false
	})
	if err != nil || p.debug == "" {
		said, _ := os.ReadFile(p.log)
		return nil, fmt.Errorf("%s did not start: %s", role, said)
	}
	return p, nil
}

// ready is what a role says when it is, with the address of its metrics.
func ready(address string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	http.Handle("/metrics", promhttp.Handler()) // beside the profiles
	go func() { _ = http.Serve(l, nil) }()      //nolint:gosec // ends with the process
	if address == "" {
		address = "-"
	}
	fmt.Println("ready", address, "http://"+l.Addr().String()+"/metrics")
	return nil
}

func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(15 * time.Second):
		p.kill()
	}
}

// kill ends a process and what it has started: PostgreSQL runs under another.
func (p *process) kill() {
	for _, pid := range family(p.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.exited
}

// freeze stops a process in its tracks, thaw lets it go on: so that work can
// be laid out before anybody takes it.
func (p *process) freeze() { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) thaw()   { _ = p.cmd.Process.Signal(syscall.SIGCONT) }

// usage is what a process has used up since it started.
type usage struct {
	cpu     time.Duration
	mallocs float64
	bytes   float64
	peak    int64 // bytes of memory, the most so far
}

func (u usage) minus(v usage) usage {
	return usage{u.cpu - v.cpu, u.mallocs - v.mallocs, u.bytes - v.bytes, u.peak}
}

func (p *process) usage() usage {
	var u usage
	if p == nil {
		return u
	}
	u.cpu = cpuOf(p.cmd.Process.Pid)
	u.peak = peakOf(p.cmd.Process.Pid)
	if p.debug != "" {
		u.mallocs, u.bytes = allocations(p.debug)
	}
	return u
}

// cpuOf reads /proc/PID/stat, whose clock ticks a hundred times a second, of
// a process and its children.
func cpuOf(pid int) time.Duration {
	total := time.Duration(0)
	for _, pid := range family(pid) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := fieldsOf(stat)
		if len(f) < 15 {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		total += time.Duration(user+system) * 10 * time.Millisecond
	}
	return total
}

// ranFor is how long the threads of a process have run, to the nanosecond: by
// ticks, as cpuOf tells it, who wakes with each tick and rests would seem to
// work. The threads that have ended are not among them.
func ranFor(pid int) time.Duration {
	ran, _ := scheduled(pid)
	return ran
}

// waited is how long the threads of a process could have run and had to wait for
// a processor, because others had them.
func (p *process) waited() time.Duration {
	if p == nil {
		return 0
	}
	_, waited := scheduled(p.cmd.Process.Pid)
	return waited
}

func scheduled(pid int) (ran, waited time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, thread := range threads {
		text, _ := os.ReadFile(thread)
		var r, w time.Duration
		if _, err := fmt.Sscan(string(text), &r, &w); err == nil {
			ran, waited = ran+r, waited+w
		}
	}
	return ran, waited
}

// idleSoFar is how long all processors together have had nothing to do.
func idleSoFar() time.Duration {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	f := strings.Fields(line)
	if len(f) < 6 {
		return 0
	}
	idle, _ := strconv.Atoi(f[4])
	waiting, _ := strconv.Atoi(f[5]) // for a disk
	return time.Duration(idle+waiting) * 10 * time.Millisecond
}

// family is a process and all that it has started, as PostgreSQL has them.
func family(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		stat, _ := os.ReadFile(file) // empty: it has ended
		if f := fieldsOf(stat); len(f) > 1 {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// fieldsOf are those of /proc/PID/stat from the state on: the name before it may
// have blanks in it.
func fieldsOf(stat []byte) []string {
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

// peakOf is the most memory that a process has had, or one of its children:
// what they share is not counted twice.
func peakOf(pid int) int64 {
	most := int64(0)
	for _, pid := range family(pid) {
		most = max(most, memory(pid, "VmHWM:"))
	}
	return most
}

func memory(pid int, which string) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, which); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// allocations reads what a Go process has allocated from its metrics.
func allocations(url string) (mallocs, size float64) {
	res, err := http.Get(url) //nolint:gosec,noctx // our own
	if err != nil {
		return 0, 0
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case "go_memstats_mallocs_total":
			mallocs, _ = strconv.ParseFloat(value, 64)
		case "go_memstats_alloc_bytes_total":
			size, _ = strconv.ParseFloat(value, 64)
		}
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return mallocs, size
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil //nolint:forcetypeassert // of tcp
}

var errTimeout = errors.New("it took too long")

func eventually(within time.Duration, done func() bool) error {
	deadline := time.Now().Add(within)
	for !done() {
		if time.Now().After(deadline) {
			return errTimeout
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// profileOf writes what a worker or a server does in the two seconds from now,
// and what it has allocated, into a folder; the function returned waits.
func profileOf(dir string, p *process, name string) (wait func()) {
	if dir == "" || p == nil || p.debug == "" {
		return func() {}
	}
	save := func(file, path string) {
		res, err := http.Get(strings.TrimSuffix(p.debug, "/metrics") + path) //nolint:gosec,noctx // our own
		if err != nil {
			return
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err == nil {
			_ = os.WriteFile(filepath.Join(dir, slug(name)+"."+file), b, 0o600)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.AfterFunc(time.Second, func() { save("goroutines", "/debug/pprof/goroutine?debug=1") })
		save("cpu", "/debug/pprof/profile?seconds="+cmp.Or(os.Getenv("PROFILE_SECONDS"), "2"))
	}()
	return func() {
		<-done
		save("allocs", "/debug/pprof/allocs")
	}
}
