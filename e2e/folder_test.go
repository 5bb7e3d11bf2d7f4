package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fetchworker"
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

// TestADamagedFolderIsNotStartedOver: what is missing is told, and only a
// person's word goes on without it.
func TestADamagedFolderIsNotStartedOver(t *testing.T) {
	begin(t)
	a := alone(t)
	a.start()
	for i := range 20 {
		a.publish("alice", fmt.Sprintf(`{"id":"q-%d","params":{"symbol":"S%d"}}`, i, i))
	}
	for i := range 20 {
		a.final(fetchworker.Identity{Provider: "fmp", Operation: "quote", Agent: "alice", ID: fmt.Sprint("q-", i)})
	}
	a.signal(t, syscall.SIGTERM)
	a.ended(t, 10*time.Second)
	block := filepath.Join(a.env["FETCH_DATA_DIR"], "jetstream/$G/streams/FETCH_RESULTS/msgs/1.blk")
	if err := os.Truncate(block, 5000); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "worker", program("worker"), a.env)
	if code := p.ended(t, 20*time.Second); code != 1 || !strings.Contains(p.log.tail(2), "FETCH_RESULTS") {
		t.Errorf("exit code %d: %s", code, p.log.tail(2))
	}
	accepted := launch(t, "worker", program("worker"), a.env, "--accept-loss")
	accepted.says(t, "holds less than it did")
	accepted.says(t, `"serving"`)
}
