package page_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// live opens the live form of a view.
func (r *rig) live(ctx context.Context, url string) *http.Response {
	r.t.Helper()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Accept", "text/event-stream")
	answer, err := r.client.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// What changes comes by itself.
func TestWhoWatchesSeesChanges(t *testing.T) {
	r := newRig(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answer := r.live(ctx, r.URL+"/letters")
	defer func() { _ = answer.Body.Close() }()
	if kind := answer.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatal(kind)
	}
	lines := bufio.NewScanner(answer.Body)
	until := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("%q did not come: %v", text, lines.Err())
	}
	until("nothing waits for a retry")
	r.store(letter("alice", "q-1", "boom").DeadLetter())
	until("alice/q-1")
}

// A view is live for longer than its request may take.
func TestALiveViewOutlivesItsRequestsTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.page.Serve(serving, ln) }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	answer := r.live(ctx, "http://"+ln.Addr().String()+"/letters")
	defer func() { _ = answer.Body.Close() }()
	began := time.Now()
	for lines := bufio.NewScanner(answer.Body); time.Since(began) < 12*time.Second; {
		if !lines.Scan() || strings.Contains(lines.Text(), "event: still") {
			t.Fatalf("it is live no more after %v: %q %v", time.Since(began), lines.Text(), lines.Err())
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// The first event is the view as it was rendered, to the byte: else a browser
// would put all of it anew, and take away what is focused.
func TestTheFirstEventIsTheViewItself(t *testing.T) {
	r := newRig(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	answer := r.live(ctx, r.URL+"/acts")
	defer func() { _ = answer.Body.Close() }()
	var event []string
	for lines := bufio.NewScanner(answer.Body); lines.Scan() && lines.Text() != ""; {
		event = append(event, strings.TrimPrefix(lines.Text(), "data: "))
	}
	if _, whole, _ := r.get("/acts"); len(event) == 0 || !strings.Contains(whole, "data-live>"+strings.Join(event, "\n")+"</main>") {
		t.Errorf("the event is not what the view has: %q in\n%s", event, whole)
	}
}
