package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode"

	"fetchworker"
	"fetchworker/internal/providers/providertest"
	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestOddBytesInAPipe gives fetch lines through a pipe, of which one holds
// whatever bytes there are: what came before it is answered, fetch ends with a
// code of its own, and says nothing that a terminal would obey. What a provider
// sends goes through a pipe as it is.
func TestOddBytesInAPipe(t *testing.T) {
	begin(t)
	const odd = "[{\"symbol\":\"ODD\",\"price\":1,\"name\":\"\u009b2J \u202e \u2028 \\u001b[2J\"}]"
	f := newFleet(t, func(*http.Request) *providertest.Step {
		step := providertest.JSON(http.StatusOK, odd)
		return &step
	})
	f.worker()
	fetch := func(in string, args ...string) (out, said string, code int) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(program("fetch"), args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NATS_URL=" + f.env["NATS_URL"]}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &stdout, &stderr
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	if out, said, code := fetch("", "fmp", "quote", "symbol=ODD", "--agent", "alice"); code != 0 || strings.TrimSuffix(out, "\n") != odd {
		t.Errorf("through a pipe: exit code %d, %q\n%q", code, out, said)
	}
	for _, line := range []string{
		"\x1b[2J", "\xff\xfe{}", "\x00", "{\"symbol\":\"\x9b2J\"}", "{\"symbol\":\"\x1b]52;c;eA==\x07\"}", `{"symbol":"\u202e\u009b2J"}`,
		`{"id":"\u001b]52;c;eA==\u0007","params":{"symbol":"A"}}`, "{\"id\":\"\xff\",\"params\":{\"symbol\":\"A\"}}",
		"{\"\x1b[2J\":1}", `{"symbol":`, strings.Repeat("[", 5000), `{"symbol":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		shown := line[:min(len(line), 60)]
		out, said, code := fetch("{\"symbol\":\"GOOD\"}\n"+line+"\n", "fmp", "quote", "--from", "-", "--agent", "alice", "--timeout", "20s")
		if code < 1 || code > 3 {
			t.Errorf("%q: exit code %d", shown, code)
		}
		good := false
		for text := range strings.Lines(out) {
			var answer struct {
				Status string `json:"status"`
			}
			if err := json.Unmarshal([]byte(text), &answer); err != nil {
				t.Errorf("%q: it writes %q: %v", shown, text, err)
			}
			good = good || answer.Status == string(fetchworker.StatusOK)
		}
		if !good {
			t.Errorf("%q: the line before it has no answer: %q\n%q", shown, out, said)
		}
		if i := strings.IndexFunc(said, func(r rune) bool {
			return r != '\n' && r != '\r' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar)
		}); i >= 0 {
			t.Errorf("%q: it says %q", shown, said)
		}
	}
}

// TestFourReplayersShareOneRoom has four replayers release what is due while its
// provider is slow: together they leave no more in its queue than the one room.
func TestFourReplayersShareOneRoom(t *testing.T) {
	begin(t)
	const letters, replayers = 1000, 4
	f := newFleet(t, well(50*time.Millisecond))
	f.env["FMP_REQUESTS_PER_MINUTE"] = "120"
	f.worker()
	for range replayers {
		f.replayer()
	}
	until(t, 20*time.Second, "all replayers wait for letters", func() bool {
		consumer, err := f.js.Consumer(t.Context(), wire.StreamDLQ, "replayer")
		return err == nil && consumer.CachedInfo().NumWaiting >= replayers
	})
	store(t, f.js, letters, func(i int) *nats.Msg {
		id := fmt.Sprint("D", i)
		l := aLetter(id, wire.ClassTransient)
		l.Calls, l.Failures = 1, 1
		l.Body = fmt.Appendf(nil, `{"id":%q,"params":{"symbol":%q}}`, id, id)
		return l.DeadLetter()
	})
	room := 0
	until(t, 20*time.Second, "a worker asks for what is released", func() bool {
		consumer, err := f.js.Consumer(t.Context(), wire.StreamReplay, "fmp-replay")
		if err == nil {
			room = 2 * consumer.CachedInfo().Config.MaxAckPending
		}
		return err == nil
	})
	most := 0
	for range pick(40, 400) {
		most = max(most, f.count(wire.StreamReplay))
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("of %d letters %d are released at the most, room is for %d", letters, most, room)
	// Those who count at the same moment may overshoot by a little.
	if most < room/2 || most > room*5/4 || letters < replayers*room {
		t.Errorf("%d are released, room is for %d", most, room)
	}
}
