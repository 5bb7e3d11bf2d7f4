package broker_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/broker"
	"fetchworker/internal/broker/brokertest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A wrong byte or a file that is gone makes answers vanish, and the server
// says nothing of it: the same ids would get second, different final answers.
func TestADamagedStoreIsNotStartedOver(t *testing.T) {
	flipAt := func(path string, part float64) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[int(part*float64(len(b)))] ^= 0xff
		return os.WriteFile(path, b, 0o600)
	}
	flip := func(path string) error { return flipAt(path, 0.5) }
	for what, c := range map[string]struct {
		damage func(stream string) error
		lost   bool
	}{
		"nothing":              {func(string) error { return nil }, false},
		"a wrong byte":         {func(dir string) error { return flip(filepath.Join(dir, "msgs/1.blk")) }, true},
		"an early byte":        {func(dir string) error { return flipAt(filepath.Join(dir, "msgs/1.blk"), 0.05) }, true},
		"a late byte":          {func(dir string) error { return flipAt(filepath.Join(dir, "msgs/1.blk"), 0.97) }, true},
		"the last answer":      {func(dir string) error { return flipAt(filepath.Join(dir, "msgs/1.blk"), 0.9995) }, true},
		"half a block":         {func(dir string) error { return os.Truncate(filepath.Join(dir, "msgs/1.blk"), 1000) }, true},
		"a block":              {func(dir string) error { return os.Remove(filepath.Join(dir, "msgs/1.blk")) }, true},
		"the stream's file":    {func(dir string) error { return flip(filepath.Join(dir, "meta.inf")) }, true},
		"an index, made again": {func(dir string) error { return flip(filepath.Join(dir, "msgs/index.db")) }, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := brokertest.StartIn(t, dir, "")
			for i := range 100 {
				publish(t, b, fmt.Sprintf("fetch.put.fmp.quote.alice.q%d", i))
			}
			b.Stop()
			if err := c.damage(filepath.Join(dir, "jetstream/$G/streams/FETCH_RESULTS")); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zap.ErrorLevel)
			o := broker.EmbedOptions{DataDir: dir, Sync: time.Minute, Logger: zap.New(core)}
			e, err := broker.Embed(o)
			if !c.lost {
				if err != nil {
					t.Fatal(err)
				}
				e.Shutdown()
				return
			}
			if !errors.Is(err, broker.ErrStoreLost) || !strings.Contains(err.Error(), "FETCH_RESULTS") || !strings.Contains(err.Error(), "--accept-loss") {
				t.Fatalf("%v", err)
			}
			o.AcceptLoss = true
			if e, err = broker.Embed(o); err != nil {
				t.Fatal(err)
			}
			if logs.FilterMessageSnippet("holds less").Len() == 0 {
				t.Error("it is not told")
			}
			e.Shutdown()
			o.AcceptLoss = false
			if e, err = broker.Embed(o); err != nil {
				t.Fatalf("what was accepted is held against it: %v", err)
			}
			e.Shutdown()
		})
	}
}
