package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// collectorRoom is how much garbage may lie beside a small heap before it is
	// collected, and roomShare of the memory limit where that is less.
	collectorRoom = 64 << 20
	roomShare     = 8
	// The collector's own percent, and the most that is asked of it.
	usualPercent, mostPercent = 100, 400
	// seldom is how far two collections are apart while there is no need for
	// more room.
	seldom = time.Second
)

// PaceCollector lets more garbage lie while the process is busy. What one keeps is
// small, some ten megabytes, so that at Go's own pace a worker that answers seven
// thousand requests a second collects ten times a second: an eighth of its CPU. A
// heap that is large, seldom collected or near its limit is left as it is, and so
// is one that GOGC speaks of.
func PaceCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	room := min(collectorRoom, debug.SetMemoryLimit(-1)/roomShare)
	(&pacer{room: room, percent: usualPercent, last: time.Now(), set: func(percent int) { debug.SetGCPercent(percent) }}).watch()
}

// pacer is told of each collection by something small that is garbage in the
// next: it costs nothing while nothing is collected.
type pacer struct {
	room int64
	set  func(percent int)

	mu      sync.Mutex
	percent int
	last    time.Time // that something was collected
}

func (p *pacer) watch() {
	sentinel := &struct{ of *pacer }{p}
	runtime.AddCleanup(sentinel, (*pacer).collected, p)
}

func (p *pacer) collected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	percent := percentFor(int64(live[0].Value.Uint64()), now.Sub(p.last), p.room) //nolint:gosec // bytes of a heap
	if p.last = now; percent != p.percent {
		p.percent = percent
		p.set(percent)
	}
	p.watch()
}

// percentFor is how much garbage may lie beside what lives, in percent of it. It
// goes in few steps: each change stops the world for a moment.
func percentFor(live int64, apart time.Duration, room int64) int {
	percent := usualPercent
	for apart < seldom && percent < mostPercent && live*int64(2*percent)/100 <= room {
		percent *= 2
	}
	return percent
}
