package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/wire"

	"github.com/nats-io/nats.go"
)

// TestStatusAmongManyLetters asks, as a program of its own, how it stands while
// many letters wait: they are counted, not read. First where no replayer runs,
// then where one does, which has met them all.
func TestStatusAmongManyLetters(t *testing.T) {
	begin(t)
	letters, bound := pick(2_000, 1_000_000), 300*time.Millisecond
	if only, err := strconv.Atoi(os.Getenv("FETCH_LETTERS")); err == nil {
		letters = only
	}
	f := newFleet(t, well(0))
	f.answers.Stop()
	f.worker()
	f.replayer().kill() // whose consumer is there now
	later := time.Now().Add(time.Hour)
	store(t, f.js, letters, func(i int) *nats.Msg {
		l := aLetter(fmt.Sprint("L", i), wire.ClassTransient)
		l.Provider, l.Agent = []string{"fmp", "polygon", "fred", "newsapi"}[i%4], fmt.Sprint("agent-", i%50)
		l.Failures, l.NotBefore = 1, later
		return l.DeadLetter()
	})
	status := func(when string) {
		var took []time.Duration
		for range pick(2, 7) {
			cmd := exec.Command(program("replayer"), "status")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
			for key, value := range f.env {
				cmd.Env = append(cmd.Env, key+"="+value)
			}
			start := time.Now()
			out, err := cmd.CombinedOutput()
			took = append(took, time.Since(start))
			if said := strings.NewReplacer(" ", "", ",", "").Replace(string(out)); err != nil || !strings.Contains(said, strconv.Itoa(letters/4)) {
				t.Fatalf("status: %v\n%s", err, out)
			}
		}
		slices.Sort(took)
		t.Logf("%s, status of %d letters took %v to %v, %v in the middle", when, letters, took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond))
		if full && took[len(took)/2] > bound {
			t.Errorf("%s it takes %v, %v are allowed", when, took[len(took)/2], bound)
		}
	}
	status("without a replayer")
	f.replayer()
	until(t, 10*time.Minute, "the replayer has met all letters", func() bool {
		c, err := f.js.Consumer(t.Context(), wire.StreamDLQ, "replayer")
		return err == nil && c.CachedInfo().NumPending == 0
	})
	status("beside a replayer")
}
