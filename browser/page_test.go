package browser

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fetchworker/internal/wire"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// tab is one tab of a headless browser, and what went wrong in it.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	mu    sync.Mutex
	wrong []string
}

func openTab(t *testing.T, url string) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	return tabIn(t, ctx, url)
}

func tabIn(t *testing.T, ctx context.Context, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx, url: url}
	chromedp.ListenTarget(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.APITypeError {
				b.wrong = append(b.wrong, fmt.Sprintf("console: %s", e.Args[0].Value))
			}
		case *runtime.EventExceptionThrown:
			b.wrong = append(b.wrong, "exception: "+e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError && !strings.Contains(e.Entry.URL, "/request/") {
				b.wrong = append(b.wrong, e.Entry.Text+" "+e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, url) && !strings.HasPrefix(e.Request.URL, "data:") && e.Request.URL != "about:blank" {
				b.wrong = append(b.wrong, "asked elsewhere: "+e.Request.URL)
			}
		}
	})
	if err := chromedp.Run(ctx); err != nil { // the browser lives as long as what it was first asked in
		t.Fatal(err)
	}
	b.do(network.Enable(), log.Enable(), runtime.Enable())
	return b
}

// do does one after the other. What is found while a page is still being put
// together may be gone when it is used; then it is looked for again.
func (b *tab) do(actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 40*time.Second)
	defer cancel()
	for _, action := range actions {
		err := chromedp.Run(ctx, action)
		for try := 0; try < 10 && err != nil && (strings.Contains(err.Error(), "No node with given id") || strings.Contains(err.Error(), "Cannot find context with specified id")); try++ { // a page comes in the place of another
			time.Sleep(100 * time.Millisecond)
			err = chromedp.Run(ctx, action)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *tab) well() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.wrong {
		b.t.Error(w)
	}
	b.wrong = nil
}

// says waits until the view says something.
func (b *tab) says(text string) {
	b.t.Helper()
	var body string
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(100 * time.Millisecond) {
		b.do(chromedp.Text("main", &body, chromedp.ByQuery))
		if strings.Contains(strings.ReplaceAll(body, "\u202f", ""), text) {
			return
		}
	}
	b.t.Fatalf("it does not say %q:\n%s", text, body)
}

var views = map[string]string{
	"overview": "/", "provider": "/provider/polygon", "waiting": "/waiting", "letters": "/letters", "review": "/review", "agents": "/agents?since=7d",
	"audit": "/audit", "events": "/events", "request": "/request/polygon/aggregates/alice/aggregates-0", "stop-all": "/control?do=pause&all=1&for=1h", "find": "/find?q=nothing", "acts": "/acts",
	"words": "/words", "agent": "/agent/alice", "wrong": "/control?do=limit&provider=fmp",
}

// tidy says what is out of place in a view: a tab that is shown and cannot be
// seen, and what stands in one row and does not end on one line.
const tidy = `(() => {
  const wrong = [];
  const tab = document.querySelector("nav a[aria-current]");
  if (tab) { const r = tab.getBoundingClientRect(); if (r.left < 0 || r.right > innerWidth || r.top < 0) wrong.push("the tab " + tab.textContent + " is out of sight"); }
  const rows = {};
  for (const e of document.querySelectorAll(".filter input:not([type=hidden]), .filter select, .filter button, .filter .button")) {
    const r = e.getBoundingClientRect();
    const top = Object.keys(rows).find((k) => Math.abs(k - r.bottom) < 8);
    if (top === undefined) rows[r.bottom] = r; else if (Math.abs(rows[top].bottom - r.bottom) > 1 || Math.abs(rows[top].height - r.height) > 1) wrong.push((e.name || e.textContent) + " is not in line");
  }
  for (const cell of document.querySelectorAll("table td, table th")) {
    const edge = cell.getBoundingClientRect().right;
    for (const e of cell.querySelectorAll("*")) if (e.getBoundingClientRect().right > edge + 1 && getComputedStyle(e).position !== "absolute") wrong.push(e.textContent.trim() + " runs into the next column");
  }
  return [...new Set(wrong)].join("; ");
})()`

// documented are the pictures that docs/page.md shows: FETCH_DOCS=1 writes them
// anew.
var documented = map[string]string{"overview": "1280-light", "review": "1280-dark", "agents": "1280-light", "waiting": "390-light"}

// Each view at two widths, light and dark: no error in the console, nothing
// asked of another host, nothing wider than the screen. The pictures are kept
// in shots/ to be looked at.
func TestEveryViewAtEveryWidth(t *testing.T) {
	_, url := staged(t)
	b := openTab(t, url)
	if err := os.MkdirAll("shots", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, path := range views {
		for _, width := range []int64{1280, 900, 390} {
			for _, scheme := range []string{"light", "dark"} {
				if width == 900 && scheme == "dark" {
					continue // what is dark at the others is so here
				}
				b.do(emulation.SetDeviceMetricsOverride(width, 900, 1, width < 500),
					emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
				b.do(chromedp.Navigate(url+path), chromedp.WaitVisible("h1", chromedp.ByQuery))
				switch name {
				case "letters", "review":
					b.says("match")
				case "overview", "provider":
					b.says("polygon")
				}
				var over int
				var untidy string
				var picture []byte
				b.do(chromedp.Evaluate(tidy, &untidy))
				if untidy != "" {
					t.Errorf("%s at %d: %s", name, width, untidy)
				}
				b.do(chromedp.Evaluate(`document.documentElement.scrollWidth - document.documentElement.clientWidth`, &over), chromedp.FullScreenshot(&picture, 100))
				if over > 0 {
					t.Errorf("%s at %d is %d pixels too wide", name, width, over)
				}
				file := filepath.Join("shots", fmt.Sprintf("%s-%d-%s.png", name, width, scheme))
				if err := os.WriteFile(file, picture, 0o644); err != nil {
					t.Fatal(err)
				}
				if shown := documented[name]; shown != fmt.Sprintf("%d-%s", width, scheme) || os.Getenv("FETCH_DOCS") == "" {
					continue
				}
				b.do(chromedp.CaptureScreenshot(&picture))
				if err := os.WriteFile(filepath.Join("..", "docs", "page", name+".png"), picture, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	b.well()
}

// An act from the list to its end: the plan, the number typed, a stop in the
// middle; then a second operator takes the same item.
func TestAnActIsClickedThrough(t *testing.T) {
	broker, url := staged(t)
	b := openTab(t, url)
	b.do(chromedp.Navigate(url+"/review?provider=fmp"), chromedp.WaitVisible(`.actions form button`, chromedp.ByQuery))
	b.do(chromedp.Click(`//button[starts-with(text(),"Discard")]`, chromedp.BySearch))
	b.says("1000 messages to discard")
	b.do(chromedp.WaitVisible(`input[name=count]`, chromedp.ByQuery), chromedp.SetValue(`input[name=by]`, "bea", chromedp.ByQuery),
		chromedp.SendKeys(`input[name=reason]`, "producer fixed", chromedp.ByQuery), chromedp.SendKeys(`input[name=rate]`, "100", chromedp.ByQuery),
		chromedp.SendKeys(`input[name=count]`, "1000", chromedp.ByQuery), chromedp.Click(`.stack .danger`, chromedp.ByQuery))
	b.says("a second, about")
	b.do(chromedp.Click(`//button[text()="Stop"]`, chromedp.BySearch))
	b.says("the rest was not touched")
	stream, err := broker.JS.Stream(t.Context(), wire.StreamReview)
	if err != nil {
		t.Fatal(err)
	}
	if left := stream.CachedInfo().State.Msgs; left == 0 || left == 1000 {
		t.Errorf("%d items are left", left)
	}
	// Two tabs on the last item: both plan, both confirm, one has done it.
	other := tabIn(t, b.ctx, url)
	for _, tab := range []*tab{b, other} {
		tab.do(chromedp.Navigate(url+"/request/fmp/quote/bob/quote-999"), chromedp.Click(`//button[text()="Requeue…"]`, chromedp.BySearch))
		tab.says("1 message to requeue")
	}
	done := 0
	for _, tab := range []*tab{b, other} {
		tab.do(chromedp.SetValue(`input[name=by]`, "bea", chromedp.ByQuery), chromedp.SendKeys(`input[name=reason]`, "again", chromedp.ByQuery), chromedp.Click(`.stack .primary`, chromedp.ByQuery))
		tab.says("of 1 done")
		var body string
		tab.do(chromedp.Text(".big", &body, chromedp.ByQuery))
		if strings.HasPrefix(body, "1") {
			done++
		}
	}
	if done != 1 {
		t.Errorf("%d of two operators have done it", done)
	}
	b.well()
	other.well()
}

// A replay is planned, planned again for fewer, and done with a canary whose
// answers nobody gives: it stops by itself, and nothing else was touched. A plan
// that is left changes nothing.
func TestAPlanIsADryRunAndACanaryGoesFirst(t *testing.T) {
	broker, url := staged(t)
	b := openTab(t, url)
	b.do(chromedp.Navigate(url+"/review?provider=fmp"), chromedp.WaitVisible(`.actions form button`, chromedp.ByQuery), chromedp.Click(`//button[starts-with(text(),"Requeue")]`, chromedp.BySearch))
	b.says("1000 messages to requeue")
	b.do(chromedp.Click(`summary`, chromedp.ByQuery), chromedp.SendKeys(`input[name=limit]`, "40", chromedp.ByQuery),
		chromedp.Click(`input[name=keep_deadline]`, chromedp.ByQuery), chromedp.Click(`//button[text()="Plan again"]`, chromedp.BySearch))
	b.says("40 messages to requeue")
	b.says("more match: these are the first 40")
	left := func() uint64 {
		stream, err := broker.JS.Stream(t.Context(), wire.StreamReview)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.Msgs
	}
	if n := left(); n != 1000 {
		t.Errorf("a plan has changed something: %d", n)
	}
	b.do(chromedp.SetValue(`input[name=by]`, "bea", chromedp.ByQuery), chromedp.SendKeys(`input[name=reason]`, "fixed", chromedp.ByQuery),
		chromedp.SendKeys(`input[name=canary]`, "5", chromedp.ByQuery), chromedp.Click(`.stack .primary`, chromedp.ByQuery))
	b.says("5 of 40 done")
	b.do(chromedp.Click(`//button[text()="Stop"]`, chromedp.BySearch))
	b.says("the rest was not touched")
	if n := left(); n != 995 {
		t.Errorf("%d items are left", n)
	}
	b.well()
}

// Without a mouse: to the letters by Tab and Enter, and a pause of everything.
func TestTheKeyboardIsEnough(t *testing.T) {
	_, address := staged(t)
	b := openTab(t, address)
	b.do(chromedp.Navigate(address+"/"), chromedp.WaitVisible("nav", chromedp.ByQuery))
	b.says("polygon")
	press := func(want string) {
		t.Helper()
		for range 80 {
			var focused string
			b.do(chromedp.KeyEvent(kb.Tab), chromedp.Evaluate(`(document.activeElement.textContent || document.activeElement.name || "").trim()`, &focused))
			if focused == want {
				b.do(chromedp.KeyEvent(kb.Enter))
				return
			}
		}
		t.Fatalf("Tab does not lead to %q", want)
	}
	press("Stop everything…")
	b.says("Pause everything")
	b.do(chromedp.Focus(`input[name=reason]`, chromedp.ByQuery), chromedp.KeyEvent("maintenance"), chromedp.KeyEvent(kb.Enter))
	var at string
	for range 50 {
		b.do(chromedp.Location(&at))
		if u, err := url.Parse(at); err == nil && u.Path == "/" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.says("paused")
	press("Dead letters")
	b.says("By cause")
	b.well()
}
