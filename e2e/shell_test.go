package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/broker/brokertest"
	"fetchworker/internal/providers/providertest"

	"github.com/creack/pty"
)

// ours are the programs.
var ours = []string{"worker", "replayer", "fetch", "gateway"}

// TestEveryProgramExplainsItself: --version and --help of each, and of each
// sub-command its own.
func TestEveryProgramExplainsItself(t *testing.T) {
	begin(t)
	seen := 0
	says := func(name string, args ...string) string {
		t.Helper()
		p := launch(t, name, program(name), nil, args...)
		if code := p.ended(t, 30*time.Second); code != 0 {
			t.Errorf("%s %v: exit code %d", name, args, code)
		}
		return p.log.tail(10_000)
	}
	var walk func(name, above string, path ...string)
	walk = func(name, above string, path ...string) {
		help := says(name, append(path, "--help")...)
		usage := strings.Join(append([]string{name}, path...), " ")
		if help == above || !strings.Contains(help, "Usage:\n  "+usage) {
			t.Errorf("%s --help says %s", usage, help)
		}
		seen++
		_, commands, _ := strings.Cut(help, "Available Commands:\n")
		for line := range strings.Lines(commands) {
			words := strings.Fields(line)
			if len(words) < 2 {
				break
			}
			walk(name, help, append(path[:len(path):len(path)], words[0])...)
		}
	}
	for _, name := range ours {
		for _, way := range []string{"--version", "version"} {
			if version := says(name, way); !regexp.MustCompile(`^fetchworker ` + name + ` dev go1\.\S+\n$`).MatchString(version) {
				t.Errorf("%s %s says %q", name, way, version)
			}
		}
		walk(name, "")
	}
	const some = 30
	if seen < some {
		t.Errorf("only %d commands are found", seen)
	}
}

// TestTheExitCodesAreThoseOfTheTable: each that docs/operations.md names is seen.
func TestTheExitCodesAreThoseOfTheTable(t *testing.T) {
	begin(t)
	f := newFleet(t, func(r *http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, aQuote)
		if strings.HasSuffix(r.URL.Path, "/NONE") {
			step = providertest.JSON(http.StatusBadRequest, `{"Error Message":"no such symbol"}`)
		}
		return &step
	})
	f.env["USER"] = "ann"
	f.worker()
	f.replayer()
	f.final(f.quote("alice", "AAPL"), 30*time.Second)
	f.runs("replayer", 0, "pause", "polygon", "--for", "1h", "--reason", "maintenance")
	nobody := "nats://127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t))
	seen := map[string]map[int]bool{}
	for _, name := range ours {
		seen[name] = map[int]bool{}
	}
	for _, c := range []struct {
		name string
		code int
		args []string
		set  map[string]string
	}{
		{"worker", 0, []string{"check"}, nil},
		{"worker", 0, []string{"apply"}, nil},
		{"worker", 1, []string{"check"}, map[string]string{"FETCH_RETRIES": "many"}},
		{"worker", 1, []string{"health"}, map[string]string{"FETCH_HTTP_ADDR": strings.TrimPrefix(nobody, "nats://")}},
		{"worker", 1, nil, map[string]string{"FETCH_GATEWAY": "on", "FETCH_GATEWAY_ADDR": "0.0.0.0:0"}},
		{"worker", 2, []string{"dance"}, nil},
		{"worker", 2, []string{"check", "--nonsense"}, nil},
		{"worker", 2, []string{"move"}, nil},
		{"gateway", 0, []string{"token", "alice"}, nil},
		{"gateway", 1, nil, map[string]string{"FETCH_GATEWAY_ADDR": "0.0.0.0:0"}},
		{"gateway", 2, []string{"dance"}, nil},
		{"replayer", 0, []string{"status"}, nil},
		{"replayer", 3, []string{"list"}, nil},
		{"replayer", 1, []string{"list"}, map[string]string{"NATS_URL": nobody}},
		{"replayer", 2, []string{"dance"}, nil},
		{"replayer", 2, []string{"pause"}, nil},
		{"replayer", 2, []string{"list", "--nonsense"}, nil},
		{"replayer", 3, []string{"show", "alice/never"}, nil},
		{"fetch", 0, []string{"fmp", "quote", "symbol=AAPL"}, nil},
		{"fetch", 1, []string{"fmp", "quote", "symbol=NONE"}, nil},
		{"fetch", 2, []string{"fmp", "quote", "AAPL"}, nil},
		{"fetch", 2, []string{"--nonsense"}, nil},
		{"fetch", 3, []string{"result", "fmp", "quote", "never"}, nil},
		{"fetch", 4, []string{"fmp", "quote", "symbol=AAPL"}, map[string]string{"NATS_URL": nobody}},
	} {
		env := maps.Clone(f.env)
		maps.Copy(env, c.set)
		p := launch(t, c.name, program(c.name), env, c.args...)
		if code := p.ended(t, 90*time.Second); code != c.code {
			t.Errorf("%s %v %v: exit code %d, want %d: %s", c.name, c.args, c.set, code, c.code, p.log.tail(3))
		}
		seen[c.name][c.code] = true
	}
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## Exit codes\n\n")
	if !ok {
		t.Fatal("docs/operations.md has no table of exit codes")
	}
	var heads []string
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		code, err := strconv.Atoi(strings.TrimSpace(cells[0]))
		if err != nil {
			if heads == nil {
				heads = cells
			}
			continue
		}
		for i, cell := range cells[1:] {
			for _, name := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(heads[i+1], -1) {
				if told := strings.TrimSpace(cell) != ""; told != seen[name[1]][code] {
					t.Errorf("%s: exit code %d is told: %v, seen: %v", name[1], code, told, seen[name[1]][code])
				}
			}
		}
	}
}

// TestTheLogIsForWhoReadsIt: for a person on a terminal, in colour unless they
// want none, and JSON anywhere else, unless FETCH_LOG_FORMAT says which.
func TestTheLogIsForWhoReadsIt(t *testing.T) {
	begin(t)
	nobody := "nats://worker:s3cret@127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t))
	const coloured = "\x1b[33mWARN\x1b[0m"
	console := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{3}Z \S*WARN\S* waiting for NATS \{.*"at": ?"nats://`)
	for _, name := range []string{"worker", "replayer"} {
		for what, c := range map[string]struct {
			set      map[string]string
			terminal bool
			json     bool
			colour   bool
		}{
			"a pipe":                       {nil, false, true, false},
			"a pipe, for a person":         {map[string]string{"FETCH_LOG_FORMAT": "console"}, false, false, true},
			"a pipe, without colours":      {map[string]string{"FETCH_LOG_FORMAT": "console", "NO_COLOR": "1"}, false, false, false},
			"a terminal":                   {nil, true, false, true},
			"a terminal, without colours":  {map[string]string{"NO_COLOR": "1"}, true, false, false},
			"a terminal, for a program":    {map[string]string{"FETCH_LOG_FORMAT": "json"}, true, true, false},
			"a terminal, as it is decided": {map[string]string{"FETCH_LOG_FORMAT": "auto"}, true, false, true},
		} {
			env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TERM=xterm", "FETCH_HTTP_ADDR=off", "NATS_URL=" + nobody}
			for key, value := range c.set {
				env = append(env, key+"="+value)
			}
			cmd := exec.Command(program(name))
			if name == "replayer" {
				cmd.Args = append(cmd.Args, "run")
			}
			cmd.Env = env
			said := logged(t, cmd, c.terminal, "waiting for NATS")
			if strings.Contains(said, "s3cret") {
				t.Errorf("%s on %s tells the password: %q", name, what, said)
			}
			if got := strings.Contains(said, coloured); got != c.colour {
				t.Errorf("%s on %s: in colour: %v, %q", name, what, got, said)
			}
			if got := console.MatchString(said); got == c.json {
				t.Errorf("%s on %s: for a person: %v, %q", name, what, got, said)
			}
			for line := range strings.Lines(said) {
				var fields struct {
					Level   string `json:"level"`
					Time    string `json:"time"`
					Message string `json:"message"`
				}
				if err := json.Unmarshal([]byte(line), &fields); (err == nil) != c.json || c.json && (fields.Level == "" || fields.Time == "" || fields.Message == "") {
					t.Errorf("%s on %s: %q", name, what, line)
				}
			}
		}
	}
}

// logged runs a program until it has logged a line with this text, and returns
// what it has said by then, whole lines only.
func logged(t *testing.T, cmd *exec.Cmd, terminal bool, text string) (said string) {
	t.Helper()
	var out output
	var reading sync.WaitGroup
	endWithParent(cmd)
	if terminal {
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 200})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tty.Close() }()
		reading.Go(func() {
			for buffer := make([]byte, 4096); ; {
				n, err := tty.Read(buffer)
				_, _ = out.Write(bytes.ReplaceAll(buffer[:n], []byte("\r\n"), []byte("\n")))
				if err != nil { // the program has ended
					return
				}
			}
		})
	} else {
		cmd.Stderr = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	until(t, 30*time.Second, "it says "+text, func() bool { return out.find(text) != "" })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	reading.Wait()
	for line := range strings.Lines(out.tail(1000)) {
		if strings.HasSuffix(line, "\n") {
			said += line
		}
	}
	return said
}

// TestAMistypedVariableIsNamed at the start of each that serves, and none that
// another of ours reads: all are often given one environment.
func TestAMistypedVariableIsNamed(t *testing.T) {
	begin(t)
	catalogue := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(catalogue, []byte("providers: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{"worker": nil, "replayer": {"run"}, "gateway": nil} {
		p := launch(t, name, program(name), map[string]string{
			"NATS_URL": "nats://127.0.0.1:" + strconv.Itoa(brokertest.FreePort(t)), "NATS_CRED": "operator.creds",
			"FETCH_HTTP_ADDR": "off", "FETCH_CATALOG": catalogue, "FETCH_MAX_LIVE": "1h", "FETCH_RETRIES": "4", "FMP_API_KEY": aKey,
		}, args...)
		p.says(t, "waiting for NATS")
		for _, want := range []string{
			"FETCH_MAX_LIVE is set, and nothing reads it: did you mean FETCH_MAX_LIFE?",
			"NATS_CRED is set, and nothing reads it: did you mean NATS_CREDS?",
		} {
			if line := p.log.find(want); !strings.Contains(line, `"configuration"`) {
				t.Errorf("%s does not say %s", name, want)
			}
		}
		if said := p.log.tail(100); strings.Count(said, "nothing reads it") != 2 {
			t.Errorf("%s says of its environment: %s", name, said)
		}
		p.kill()
	}
}

// TestAStartSaysWhatToTypeNext, and names the variables that it does not know.
func TestAStartSaysWhatToTypeNext(t *testing.T) {
	begin(t)
	a := alone(t)
	a.env["FMP_REQUEST_PER_MINUTE"] = "5"
	a.env["FETCH_PAGE_ADDR"] = "127.0.0.1:0"
	a.start()
	serving := a.says(t, `"serving"`)
	if url := field(t, a.says(t, `"embedded NATS"`), "url"); !strings.Contains(serving, "fetch ops fmp") || !strings.Contains(serving, strings.TrimPrefix(url, "nats://")) {
		t.Errorf("the ready line says %s", serving)
	}
	if line := a.log.find("FMP_REQUEST_PER_MINUTE"); !strings.Contains(line, "did you mean FMP_REQUESTS_PER_MINUTE?") {
		t.Errorf("a limit under a mistyped name: %q", line)
	}
	page := field(t, a.says(t, "the operators' page is shown"), "url")
	status, text := get(t, a.http+"/")
	for _, want := range []string{`href="/metrics"`, `href="/healthz"`, `href="/readyz"`, `href="` + page + `/"`} {
		if status != 200 || !strings.Contains(text, want) {
			t.Errorf("the first page, status %d, without %s: %s", status, want, text)
		}
	}
	if status, _ := get(t, page); status != 200 {
		t.Errorf("the operators' page: %d", status)
	}
	id := fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: "q-1"}
	a.publish("alice", `{"id":"q-1","params":{"symbol":"AAPL"}}`)
	if got := a.final(id); got.Status != fetchworker.StatusOK {
		t.Error(fmt.Sprint(got))
	}
}
