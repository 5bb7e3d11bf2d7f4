package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
// then where one does, which has met them all. A million letters take many
// minutes until they are: where FETCH_TEST_STORE names a folder the store is
// kept there, and is good for a day.
func TestStatusAmongManyLetters(t *testing.T) {
	begin(t)
	letters, bound := pick(2_000, 1_000_000), 300*time.Millisecond
	if only, err := strconv.Atoi(os.Getenv("FETCH_LETTERS")); err == nil {
		letters = only
	}
	dir, kept := t.TempDir(), os.Getenv("FETCH_TEST_STORE")
	if kept != "" {
		kept = filepath.Join(kept, fmt.Sprint("status-", letters))
	}
	built := os.CopyFS(dir, os.DirFS(kept)) == nil
	f, server := newFleetIn(t, dir, well(0))
	f.answers.Stop()
	for _, key := range []string{"POLYGON_API_KEY", "FRED_API_KEY", "NEWS_API_KEY"} {
		f.env[key] = aKey // else a million agents would be told that nobody serves it
	}
	f.worker()
	if !built {
		f.replayer().kill() // whose consumer is there now
		later := time.Now().Add(24 * time.Hour)
		store(t, f.js, letters, func(i int) *nats.Msg {
			l := aLetter(fmt.Sprint("L", i), wire.ClassTransient)
			l.Provider, l.Agent = []string{"fmp", "polygon", "fred", "newsapi"}[i%4], fmt.Sprint("agent-", i%50)
			l.Failures, l.NotBefore = 1, later
			return l.DeadLetter()
		})
	}
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
	replayer := f.replayer()
	until(t, 20*time.Minute, "the replayer has met all letters", func() bool {
		c, err := f.js.Consumer(t.Context(), wire.StreamDLQ, "replayer")
		return err == nil && c.CachedInfo().NumPending == 0
	})
	status("beside a replayer")
	if kept == "" || built {
		return
	}
	replayer.kill()
	server.Stop()
	if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
}
