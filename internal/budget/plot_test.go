package budget

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/budget/turns"
)

var updatePlot = flag.Bool("plot.update", false, "write docs/permits.svg anew")

const plotFile = "../../docs/permits.svg"

// TestPlot: docs/permits.svg is what the simulation draws. A change of the
// method is meant to change it: run with -plot.update and look at it.
func TestPlot(t *testing.T) {
	got := plot()
	if *updatePlot {
		if err := os.WriteFile(plotFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(plotFile)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/permits.svg is not what the simulation draws: go test ./internal/budget -run TestPlot -plot.update")
	}
}

// curve is the calls of the last minute over time, second by second.
type curve struct {
	name  string
	class string
	at    []int
}

// plot draws how many calls arrived in the last minute, over six minutes of a
// backlog after idleness, for a fleet and for a token bucket.
func plot() string {
	const minutes, limit = 6, 120
	fleet := newSim(simConfig{
		limits: perMinute(limit), workers: 12, seed: 7, skew: 500 * time.Millisecond,
		freeze: 10 * time.Second, churn: 20 * time.Second, duration: minutes * time.Minute,
	})
	fleet.burst(90, turns.Interactive, "burst")
	for _, w := range fleet.workers {
		w.saturate(turns.Batch, 0, 16, "batch")
	}
	fleet.run()
	// A bucket of N that refills with N a minute lets N through at once and
	// another N in the minute after.
	var bucket []ledger.Instant
	for tokens, at := float64(limit), simStart; at < simStart.Add(minutes*time.Minute); at = at.Add(100 * time.Millisecond) {
		for ; tokens >= 1; tokens-- {
			bucket = append(bucket, at)
		}
		tokens += limit / 600.0
	}
	return draw(minutes, limit, []curve{
		{"a token bucket of 120", "other", rolling(bucket, minutes)},
		{"the fleet", "ours", rolling(fleet.arrivals, minutes)},
	})
}

func rolling(arrivals []ledger.Instant, minutes int) []int {
	at := make([]int, minutes*60+1)
	for i := range at {
		now := simStart.Add(time.Duration(i) * time.Second)
		for _, a := range arrivals {
			if a <= now && a > now.Add(-time.Minute) {
				at[i]++
			}
		}
	}
	return at
}

func draw(minutes, limit int, curves []curve) string {
	const width, height, left, top, plotW, plotH = 720, 330, 50, 40, 640, 240
	most := 2*limit + 20
	x := func(second int) float64 { return left + float64(second)*plotW/float64(minutes*60) }
	y := func(calls int) float64 { return top + plotH - float64(calls)*plotH/float64(most) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">
<title>Calls of the last minute: a fleet that shares 120 a minute never exceeds them</title>
<style>
text { fill: #444 } .axis { stroke: #999; stroke-width: 1 } .limit { stroke: #444; stroke-dasharray: 5 4 }
.ours { fill: none; stroke: #1f6feb; stroke-width: 2 } .other { fill: none; stroke: #d1762c; stroke-width: 1.5 }
text.ours { fill: #1f6feb; stroke: none } text.other { fill: #d1762c; stroke: none }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .limit { stroke: #ccc } }
</style>
<text x="%d" y="20">calls that arrived in the last 60 s: 12 workers that join, die and freeze, clocks 500 ms off, a burst of 90 and then a backlog</text>
`, width, height, left)
	for calls := 0; calls <= 2*limit; calls += limit / 2 {
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%d</text>`+"\n", left-8, y(calls)+4, calls)
	}
	for m := range minutes + 1 {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%d min</text>`+"\n", x(m*60), top+plotH+20, m)
	}
	fmt.Fprintf(&b, `<path class="axis" fill="none" d="M%d %d V%d H%d"/>`+"\n", left, top, top+plotH, left+plotW)
	fmt.Fprintf(&b, `<path class="limit" fill="none" d="M%d %.1f H%d"/>`+"\n", left, y(limit), left+plotW)
	fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">the limit</text>`+"\n", left+plotW, y(limit)-6)
	for i, c := range curves {
		var path strings.Builder
		for second, calls := range c.at {
			letter := "L"
			if second == 0 {
				letter = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", letter, x(second), y(calls))
		}
		fmt.Fprintf(&b, `<path class="%s" d="%s"/>`+"\n", c.class, path.String())
		fmt.Fprintf(&b, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", c.class, left+20+170*i, height-14, c.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
