package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/dial"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What is acknowledged is on the disk, unless somebody has decided that it be
// written now and then.
func TestEveryWriteIsSyncedUnlessDecided(t *testing.T) {
	for _, interval := range []time.Duration{0, time.Minute} {
		e, err := Embed(EmbedOptions{DataDir: t.TempDir(), Sync: interval})
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.server.Jsz(nil)
		if err != nil {
			t.Fatal(err)
		}
		if always := info.Config.SyncAlways; always != (interval == 0) || interval != 0 && info.Config.SyncInterval != interval {
			t.Errorf("synced always: %t, or every %v; asked for every %v", always, info.Config.SyncInterval, interval)
		}
		e.Shutdown()
	}
}

// A server that takes no message of an answer's size carries no service.
func TestAServerForSmallMessagesIsRefused(t *testing.T) {
	for most, fits := range map[int32]bool{fetchworker.MaxInlineBody: false, fetchworker.MaxInlineBody + 64<<10 - 1: false, fetchworker.MaxInlineBody + 64<<10: true} {
		s, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true, MaxPayload: most})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(nc, dial.Address{}); (err == nil) != fits || err != nil && !strings.Contains(err.Error(), "max_payload") {
			t.Errorf("messages of %d bytes: %v", most, err)
		}
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// What has become too old while nothing ran is not lost; what is gone from between
// is.
func TestWhatIsTooOldIsNotLost(t *testing.T) {
	dir := t.TempDir()
	e, err := Embed(EmbedOptions{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Shutdown()
	nc, err := e.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: fetchworker.StreamResults, Subjects: []string{"fetch.put.>"}, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := js.Publish(t.Context(), fmt.Sprint("fetch.put.", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	remember(dir, e.server, true)
	for _, c := range []struct {
		gone []uint64
		lost bool
	}{{nil, false}, {[]uint64{1, 2, 3, 4}, false}, {[]uint64{8}, true}} {
		for _, sequence := range c.gone {
			if err := stream.DeleteMsg(t.Context(), sequence); err != nil {
				t.Fatal(err)
			}
		}
		if lost, err := missing(dir, e.server, time.Now()); err != nil || (len(lost) > 0) != c.lost {
			t.Errorf("without %v: lost %q, %v", c.gone, lost, err)
		}
	}
}
