package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// writeTable writes a case as Markdown, with who was left out and why.
func writeTable(w *strings.Builder, c peerCase, rows []result, out map[string]error) {
	fmt.Fprintf(w, "### %s\n\n%s\n\n", c.name, c.describe())
	w.WriteString("| | answers/s | of the floor | CPU a request: worker | server | waited | allocations | bytes | p50 | p99 | memory, worker | server |\n")
	w.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	base := 0.0
	for _, r := range rows {
		if r.contender == floorSync {
			base = r.rate
		}
	}
	for _, r := range rows {
		n := float64(r.requests)
		share := "–"
		if base > 0 {
			share = fmt.Sprintf("%.2f", r.rate/base)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %.0f µs | %.0f µs | %.0f µs | %.0f | %.0f | %s | %s | %s | %s |\n",
			r.contender, thousands(r.rate), share,
			float64(r.worker.cpu.Microseconds())/n, float64(r.server.cpu.Microseconds())/n, float64(r.waited.Microseconds())/n,
			r.worker.mallocs/n, r.worker.bytes/n,
			millis(quantile(r.latencies, 0.5)), millis(quantile(r.latencies, 0.99)),
			mib(r.worker.peak), mib(r.server.peak))
	}
	for _, who := range slices.Sorted(maps.Keys(out)) {
		why, _, _ := strings.Cut(strings.TrimPrefix(out[who].Error(), errLeftOut.Error()+": "), "\n")
		fmt.Fprintf(w, "| %s | left out: %s | | | | | | | | | | |\n", who, strings.ReplaceAll(why, "|", "/"))
	}
	if len(rows) > 0 {
		fmt.Fprintf(w, "\nA direct GET: p50 %s, p99 %s.\n\n", millis(quantile(rows[0].directs, 0.5)), millis(quantile(rows[0].directs, 0.99)))
	}
}

func (c peerCase) describe() string {
	sync := "lazy sync"
	if c.sync == "always" {
		sync = "every write synced"
	}
	text := fmt.Sprintf("Bodies of %s, a provider that takes %v, %d calls at once, %d agents, %s, %s requests.",
		bytesText(c.size), c.delay, c.concurrency, c.agents, sync, thousands(float64(c.requests)))
	if c.things > 0 {
		text += fmt.Sprintf(" They ask for %d things, all in the cache.", c.things)
	}
	return text
}

func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
func mib(bytes int64) string        { return fmt.Sprintf("%d MB", bytes>>20) }

func bytesText(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// loadAverage is how many wanted to run in the last minute: what the numbers
// were measured beside.
func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, "\t :"))
		}
	}
	return "unknown"
}

// series is a case in the plot.
type series struct {
	name string
	rows []result
}

// bars draws each case as a group of bars: answers a second as a share of the
// floor's. The colours can be read on light and dark ground.
func bars(all []series) string {
	colours := map[string]string{
		floorSync: "#8a8f98", "floor (async)": "#b4b8bf", ours: "#2f81f7",
		"watermill-nats": "#d29922", "Asynq": "#db6d28", "River": "#57ab5a",
	}
	const left, barHeight, gap, width = 130, 14, 18, 720
	var rows strings.Builder
	y := 30
	for _, s := range all {
		base, most := 0.0, 1.0
		for _, r := range s.rows {
			if r.contender == floorSync {
				base = r.rate
			}
		}
		if base == 0 {
			continue
		}
		for _, r := range s.rows {
			most = max(most, r.rate/base)
		}
		fmt.Fprintf(&rows, `<text x="4" y="%d" font-weight="bold">%s</text>`+"\n", y+11, s.name)
		for _, r := range s.rows {
			w := r.rate / base / most * (width - left - 180)
			fmt.Fprintf(&rows, `<rect x="%d" y="%d" width="%.0f" height="%d" fill="%s"/><text x="%.0f" y="%d">%s %.2f (%s/s)</text>`+"\n",
				left, y, w, barHeight-2, colours[r.contender], float64(left)+w+5, y+11, r.contender, r.rate/base, thousands(r.rate))
			y += barHeight
		}
		y += gap
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11" fill="#768390">
<text x="4" y="16">Answers a second, as a share of the floor (sync) in the same run</text>
%s</svg>
`, width, y, rows.String())
}
