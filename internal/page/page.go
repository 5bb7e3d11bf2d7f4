// Package page is the operators' page: what operate knows, and its acts, in a
// browser. It is rendered by this process, without a build step, and loads
// nothing from elsewhere; what changes comes by itself, as server-sent events.
// What agents and providers wrote is text on it, never markup.
package page

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"fetchworker/internal/operate"

	"go.uber.org/zap"
)

//go:embed assets
var assets embed.FS

// Config is what a page is made of.
type Config struct {
	Desk   *operate.Desk
	Fleet  *operate.Fleet
	User   string // as the server knows who acts; empty without auth
	By     string // who acts, until a person says so
	Token  string // that has to be given; empty: whoever reaches the loopback address may
	Server string // where the command line finds the same fleet; empty: nobody says
	Trace  string // a URL with {trace} in it, where traces are looked at; empty: nowhere
	Log    *zap.Logger
}

// Server is the page.
type Server struct {
	Config
	views   *template.Template
	secret  string // what a browser keeps that has given the token
	looks   *looks
	counts  *counts
	acts    *acts
	names   *names
	running context.Context //nolint:containedctx // the server's own life
	stop    context.CancelFunc
	work    sync.WaitGroup // whatever runs beside requests
	streams chan struct{}  // how many may watch at once
	lookUp  time.Duration  // how long a name is looked for in what is stored
	handler http.Handler
}

// watchers is how many browsers may watch at once; one more is told to reload.
const watchers = 100

// New makes a page; Serve shows it, Close ends it.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, secret: rand.Text(), streams: make(chan struct{}, watchers), lookUp: lookUpTime}
	s.running, s.stop = context.WithCancel(context.Background())
	var err error
	if s.views, err = template.New("").Funcs(s.words()).ParseFS(assets, "assets/*.html"); err != nil {
		s.stop()
		return nil, fmt.Errorf("page: %w", err)
	}
	s.looks, s.counts, s.acts = newLooks(s), newCounts(s), newActs(s)
	s.names = newNames(s)
	s.handler = s.guard(s.routes())
	s.work.Go(func() { s.looks.run(s.running) })
	return s, nil
}

// Handler is the page for a listener of the caller's.
func (s *Server) Handler() http.Handler { return s.handler }

// Close ends all that watches and works, and waits for it. An act that is under
// way stops between two messages.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	return nil
}

// Serve shows the page until ctx ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler: s.handler, MaxHeaderBytes: 64 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	select {
	case err := <-ended:
		return errors.Join(fmt.Errorf("page: %w", err), s.Close())
	case <-ctx.Done():
	}
	err := s.Close()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if late := server.Shutdown(last); late != nil { // somebody reads on
		err = errors.Join(err, server.Close())
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// view is one look at something: what a template is filled with.
type view struct {
	Name  string // of the template
	Title string
	Nav   string // which entry of the navigation it belongs to
	Data  any
	Still bool  // nothing in it changes by itself
	Wrong fault // what of its form is wrong: it shows that only

	status int    // 0: 200
	to     string // it is shown there
}

// shown is what every template is given.
type shown struct {
	view
	Now   time.Time
	By    string
	Path  string
	Guard bool // there is a token, and so a way out

	Pauses []pause // in force, where the view does not tell them itself
}

type viewer func(r *http.Request) (view, error)

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, v := range map[string]viewer{
		"GET /{$}":           s.overview,
		"GET /provider/{p}":  s.provider,
		"GET /waiting":       s.waiting,
		"GET /letters":       s.letters,
		"GET /review":        s.review,
		"GET /find":          s.find,
		"GET /agents":        s.agents,
		"GET /agent/{agent}": s.agent,
		"GET /words":         s.legendView,
		"GET /audit":         s.audit,
		"GET /events":        s.events,
		"GET /control":       s.control,
		"GET /acts/{id}":     s.act,
		"GET /acts":          s.allActs,
		"GET /request/{p}/{operation}/{agent}/{id}": s.request,
	} {
		mux.Handle(pattern, s.show(v))
	}
	for name, stream := range exports {
		mux.HandleFunc("GET /"+name+".csv", s.export(stream, name))
	}
	mux.HandleFunc("POST /control", s.obey)
	mux.HandleFunc("POST /acts", s.planAct)
	mux.HandleFunc("POST /acts/{id}/{step}", s.stepAct)
	mux.HandleFunc("GET /acts/{id}/{step}", func(w http.ResponseWriter, r *http.Request) { // reloaded after a mistake
		http.Redirect(w, r, "/acts/"+url.PathEscape(r.PathValue("id")), http.StatusSeeOther)
	})
	mux.HandleFunc("GET /style.css", asset("style.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET /live.js", asset("live.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /icon.svg", asset("icon.svg", "image/svg+xml"))
	mux.Handle("GET /", s.show(func(*http.Request) (view, error) { return missing("there is no such page"), nil }))
	return mux
}

func asset(name, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		body, err := assets.ReadFile("assets/" + name)
		if err != nil {
			http.Error(w, "it is not built in", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(body) // the browser is gone then
	}
}

// show renders a view once, or, for whoever watches, whenever it has changed.
func (s *Server) show(look viewer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			s.watch(w, r, look)
			return
		}
		v := s.see(r, look)
		if v.to != "" {
			http.Redirect(w, r, v.to, http.StatusSeeOther)
			return
		}
		var body bytes.Buffer
		if err := s.views.ExecuteTemplate(&body, "layout", s.filled(r, v)); err != nil {
			s.Log.Error("page", zap.String("view", v.Name), zap.Error(err))
			http.Error(w, "this view cannot be shown; the log says why", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if v.status != 0 {
			w.WriteHeader(v.status)
		}
		_, _ = body.WriteTo(w) // the browser is gone then
	})
}

// see looks, and makes a view of what went wrong too.
func (s *Server) see(r *http.Request, look viewer) view {
	v, err := look(r)
	if err == nil {
		return v
	}
	var wrong *mistake
	if errors.As(err, &wrong) {
		if v.Name != "" { // it shows its form with what was written
			v.Wrong, v.Still, v.status = faultOf(err, wrong), true, http.StatusBadRequest
			if v.Wrong.Meant != "" && r.Method == http.MethodGet {
				v.Wrong.Instead = v.Wrong.instead(r.URL.Query())
			}
			return v
		}
		next := wrong.next
		if at, is := err.(misplaced); is { //nolint:errorlint // as the view returned it
			next = at.advice()
		}
		return view{Name: "trouble", Title: "That did not work", Data: trouble{wrong.text, next}, Still: true, status: http.StatusBadRequest}
	}
	s.Log.Warn("page", zap.String("path", r.URL.Path), zap.Error(err))
	return view{Name: "trouble", Title: "No answer", Data: trouble{"the server could not be asked: " + err.Error(), "this view comes back by itself when it can"}, status: http.StatusServiceUnavailable}
}

// mistake is what a person asked for and cannot have.
type mistake struct{ text, next string }

func (m *mistake) Error() string { return m.text }

type trouble struct{ Text, Next string }

func missing(text string) view {
	return view{Name: "trouble", Title: "Nothing here", Data: trouble{text, "the overview shows what there is"}, Still: true, status: http.StatusNotFound}
}

func (s *Server) filled(r *http.Request, v view) shown {
	to := shown{view: v, Now: s.Desk.Now(), By: s.by(r), Path: r.URL.RequestURI(), Guard: s.Token != ""}
	if v.Name != "overview" && v.Name != "login" {
		to.Pauses = s.pauses(to.Now)
	}
	return to
}

// by is who acts: as the person said last, in this browser.
func (s *Server) by(r *http.Request) string {
	if c, err := r.Cookie(cookieBy); err == nil && c.Value != "" {
		return decodeBy(c.Value)
	}
	return s.By
}
