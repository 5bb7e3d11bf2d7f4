package gateway

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// guard refuses what a page in somebody's browser sends without being asked: a
// name that was bound to this address (Host), and another site's page (Origin,
// and Sec-Fetch-Site where a browser sends no Origin). It answers preflights of
// the pages that may ask.
func (g *Gateway) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A connection keeps the deadlines of its last request. Who refuses a
		// request reads its body no further.
		begun := g.newWriter(w)
		begun.readWithin(g.config.patience.body)
		begun.writeWithin(g.config.patience.write)
		h := w.Header()
		// What a provider said is never markup of ours.
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Add("Vary", "Origin")
		if g.config.Tokens == nil && !isLoopback(hostOf(r.Host)) {
			refuse(w, http.StatusForbidden, "the Host is "+shorten(r.Host)+": without tokens only localhost, 127.0.0.1 and [::1] are served")
			return
		}
		origin := r.Header.Get("Origin")
		listed := slices.Contains(g.config.Origins, origin)
		switch {
		case listed:
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Expose-Headers", "*, Authorization")
			h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		case len(r.Header.Values("Origin")) > 0 && !sameOrigin(origin, r.Host):
			refuse(w, http.StatusForbidden, "pages of the origin "+shorten(origin)+" may not ask here")
			return
		case slices.Contains([]string{"cross-site", "same-site"}, r.Header.Get("Sec-Fetch-Site")):
			refuse(w, http.StatusForbidden, "pages of another site may not ask here")
			return
		}
		if r.Method == http.MethodOptions && listed {
			h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Fetch-Agent, Fetch-Lane, Idempotency-Key, Last-Event-ID, Mcp-Method, Mcp-Name, Mcp-Protocol-Version, Mcp-Session-Id, Prefer, Traceparent, Tracestate")
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostOf is a Host header without its port.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// sameOrigin reports whether an origin is the gateway's own.
func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && host != "" && strings.EqualFold(u.Host, host)
}

// bearer is the token of an Authorization header.
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimLeft(token, " ")
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// headerAgent names the agent, where tokens do not.
const headerAgent = "Fetch-Agent"

// headerLane asks for a lane, and headerID tells the request's id.
const (
	headerLane = "Fetch-Lane"
	headerID   = "Fetch-Request-Id"
)

// anybody is the agent of whoever names none.
const anybody = "http"

func shorten(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return "\"" + strings.ToValidUTF8(s, "?") + "\""
}
