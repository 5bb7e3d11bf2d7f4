package gateway

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"fetchworker/internal/broker/brokertest"

	"go.uber.org/zap"
)

// No more streams are open than there may be, and one that is refused takes no
// place; nor does a request keep its agent once it has its answer.
func TestPlacesAreGivenBack(t *testing.T) {
	b := brokertest.Start(t)
	nc := b.Connect(t)
	defer nc.Close()
	g, err := New(Config{NC: nc, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ask := func(path string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "localhost"
		g.ServeHTTP(w, r)
		return w
	}
	g.streams.Store(mostStreams)
	for range 2 {
		if w := ask("/v1/answers"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || g.streams.Load() != mostStreams {
			t.Errorf("%d, %d streams of %d", w.Code, g.streams.Load(), mostStreams)
		}
	}
	if w := ask("/v1/requests/fmp/quote/none"); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	g.agents.mu.Lock()
	defer g.agents.mu.Unlock()
	if one := g.agents.byName[anybody]; one == nil || one.users != 0 {
		t.Errorf("%+v", one)
	}
}

// No more connections are held than there is room for, and a place is free
// again once, however often its connection is closed.
func TestConnectionsTakeTurns(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bounded{Listener: ln, room: make(chan struct{}, 2)}
	dial := func() net.Conn {
		t.Helper()
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	accept := func() net.Conn {
		t.Helper()
		nc, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	for range 5 {
		nc := dial()
		t.Cleanup(func() { _ = nc.Close() })
	}
	one, two := accept(), accept()
	if len(b.room) != 2 {
		t.Fatalf("two take %d places", len(b.room))
	}
	_ = one.Close()
	_ = one.Close()
	if len(b.room) != 1 {
		t.Errorf("one of two has left, and %d places are taken", len(b.room))
	}
	three := accept()
	third := make(chan net.Conn)
	go func() {
		nc, _ := b.Accept()
		third <- nc
	}()
	_ = two.Close()
	_ = three.Close()
	_ = (<-third).Close()
	_ = ln.Close()
	if _, err := b.Accept(); err == nil || len(b.room) != 0 {
		t.Errorf("a listener that is closed: %v, %d places are taken", err, len(b.room))
	}
}
