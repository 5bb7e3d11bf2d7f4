package page

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
)

const (
	cookieIn = "fetch_page"    // that the token was given
	cookieBy = "fetch_page_by" // who acts
)

// policy lets a browser take from this page what this page is made of, and
// nothing from anywhere else; no script and no style stands in its text.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// guard keeps everybody out who has no business here: other sites in the same
// browser, names that were made to point here, and whoever lacks the token.
func (s *Server) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this came from another site: nothing was done", http.StatusForbidden)
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /login", s.login)
	mux.HandleFunc("POST /login", s.enter)
	mux.HandleFunc("POST /logout", s.leave)
	mux.HandleFunc("GET /style.css", asset("style.css", "text/css; charset=utf-8"))
	mux.Handle("/", s.known(next))
	inner := cross.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if s.Token == "" && !here(r.Host) {
			// A name of somebody else's that points to this machine would make
			// their page one with this one.
			http.Error(w, "open it as http://127.0.0.1 or localhost, or set FETCH_PAGE_TOKEN", http.StatusMisdirectedRequest)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 256<<10)
		inner.ServeHTTP(w, r)
	})
}

// here reports whether a host is this machine by a name that nobody else can
// give out.
func here(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	name = strings.Trim(name, "[]")
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *Server) known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Token == "" || s.shows(r) {
			next.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet || strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			http.Error(w, "give the token first, at /login or as Authorization: Bearer", http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	})
}

// shows reports whether a request shows that the token was given.
func (s *Server) shows(r *http.Request) bool {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && same(token, s.Token) {
		return true
	}
	c, err := r.Cookie(cookieIn)
	return err == nil && same(c.Value, s.secret)
}

// same compares in a time that tells nothing.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	s.show(func(*http.Request) (view, error) {
		return view{Name: "login", Title: "Token", Data: r.URL.Query().Has("wrong"), Still: true}, nil
	}).ServeHTTP(w, r)
}

func (s *Server) enter(w http.ResponseWriter, r *http.Request) {
	if s.Token == "" || !same(r.PostFormValue("token"), s.Token) {
		http.Redirect(w, r, "/login?wrong", http.StatusSeeOther)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookieIn, Value: s.secret, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *Server) leave(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: cookieIn, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// keepBy has the browser remember who acts.
func keepBy(w http.ResponseWriter, r *http.Request, by string) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieBy, Value: base64.RawURLEncoding.EncodeToString([]byte(by)), Path: "/", MaxAge: 90 * 24 * 3600,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
}

func decodeBy(value string) string {
	by, _ := base64.RawURLEncoding.DecodeString(value) // else nobody
	return oneLine(string(by), longestName)
}
