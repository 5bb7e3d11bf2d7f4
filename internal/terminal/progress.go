package terminal

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Progress tells how far long work is: a bar on a terminal, a plain line
// every ten seconds elsewhere, nothing where it is over sooner.
type Progress struct {
	out   io.Writer
	what  string
	total int // 0: not known
	bar   bool
	began time.Time
	stop  chan struct{}
	ended sync.WaitGroup
	once  sync.Once

	mu     sync.Mutex // guards what follows
	done   int
	remark string
}

const (
	barEach   = 200 * time.Millisecond
	plainEach = 10 * time.Second
)

// NewProgress begins to tell on out; total is 0 where nobody knows it.
func NewProgress(out io.Writer, what string, total int) *Progress {
	p := &Progress{out: out, what: what, total: total, bar: Is(out), began: time.Now(), stop: make(chan struct{})}
	each := plainEach
	if p.bar {
		each = barEach
	}
	p.ended.Go(func() {
		ticker := time.NewTicker(each)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.show()
			case <-p.stop:
				return
			}
		}
	})
	return p
}

// Add counts one more.
func (p *Progress) Add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
}

// Note is told beside the count.
func (p *Progress) Note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remark = text
}

// Close ends it; a bar that was shown stays as it was last.
func (p *Progress) Close() {
	p.once.Do(func() {
		close(p.stop)
		p.ended.Wait()
		if p.bar && (p.total > 1 || time.Since(p.began) > barEach) {
			p.show()
			_, _ = fmt.Fprint(p.out, "\n") // nobody is left to tell if stderr is gone
		}
	})
}

func (p *Progress) show() {
	p.mu.Lock()
	done, remark := p.done, p.remark
	p.mu.Unlock()
	text := line(p.what, done, p.total, time.Since(p.began), remark)
	if !p.bar {
		_, _ = fmt.Fprintln(p.out, text)
		return
	}
	if width := Width(p.out); width > 40 {
		text = Clip(barOf(done, p.total)+text, width-1)
	}
	_, _ = fmt.Fprint(p.out, "\r"+text+"\x1b[K")
}

// line is the state of the work in words.
func line(what string, done, total int, took time.Duration, remark string) string {
	perSecond := float64(done) / max(took.Seconds(), 0.001)
	text := fmt.Sprintf("%s %d", what, done)
	if total > 0 {
		text += fmt.Sprintf(" of %d (%d %%)", total, 100*done/total)
	}
	text += fmt.Sprintf(", %.1f/s", perSecond)
	if total > done && done > 0 {
		text += ", " + Short(time.Duration(float64(total-done)/perSecond*float64(time.Second))) + " left"
	}
	if remark != "" {
		text += ", " + Visible(remark)
	}
	return text
}

func barOf(done, total int) string {
	const width = 20
	if total == 0 {
		return ""
	}
	full := min(width*done/total, width)
	return "[" + strings.Repeat("█", full) + strings.Repeat("░", width-full) + "] "
}
