package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestTwoWorkersNeverRunAServerOnOneFolder: the second says where and who, and
// a kill leaves nothing in the way of a restart.
func TestTwoWorkersNeverRunAServerOnOneFolder(t *testing.T) {
	begin(t)
	a := alone(t)
	a.start()
	first := a.process
	second := launch(t, "second worker", program("worker"), a.env)
	if code := second.ended(t, 10*time.Second); code != 1 {
		t.Errorf("the second worker's exit code is %d", code)
	}
	said := second.log.tail(5)
	for _, want := range []string{a.env["FETCH_DATA_DIR"], "process " + strconv.Itoa(first.cmd.Process.Pid), "NATS_URL"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %s: %s", want, said)
		}
	}
	first.kill()
	a.start()
}
