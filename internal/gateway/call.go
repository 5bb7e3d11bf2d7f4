package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"fetchworker"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// call is one HTTP request whose agent is known.
type call struct {
	w     *writer
	r     *http.Request
	ctx   context.Context // of the request's span; ends with the client or the gateway
	agent *agent
	body  []byte
}

// routes are all that is served.
func (g *Gateway) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(method, path string, do func(*call)) {
		mux.Handle(method+" "+path, g.handle(path, do))
	}
	handle("POST", "/v1/{provider}/{operation}", g.ask)
	handle("GET", "/v1/{provider}/{operation}", g.ask)
	handle("GET", "/v1/requests/{provider}/{operation}/{id}", g.show)
	handle("DELETE", "/v1/requests/{provider}/{operation}/{id}", g.cancel)
	handle("GET", "/v1/answers", g.events)
	handle("GET", "/v1/providers", g.providers)
	handle("GET", "/v1/limits", g.limits)
	handle("GET", "/openapi.json", g.openAPI)
	handle("POST", "/mcp", g.mcp())
	mux.Handle("/", g.handle("", nil))
	for path, allow := range map[string]string{
		"/v1/{provider}/{operation}":               "GET, HEAD, POST",
		"/v1/requests/{provider}/{operation}/{id}": "GET, HEAD, DELETE",
		"/v1/answers":   "GET, HEAD",
		"/v1/providers": "GET, HEAD",
		"/v1/limits":    "GET, HEAD",
		"/openapi.json": "GET, HEAD",
		"/mcp":          "POST",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", allow)
			refuse(w, http.StatusMethodNotAllowed, "this path takes "+allow)
		})
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprintf(w, home, r.Host) // the client is gone then
	})
	return g.guard(mux)
}

const home = `fetchworker: ask for a fetch, get one answer, inside every quota.

  curl '%s/v1/fmp/quote?symbol=AAPL'

  GET  /v1/{provider}/{operation}?name=value            ask, as a person does
  POST /v1/{provider}/{operation}                       ask, as a program does
  GET  /v1/requests/{provider}/{operation}/{id}         the answer of a request; DELETE cancels it
  GET  /v1/answers                                      your answers as they come (server-sent events)
  GET  /v1/providers                                    what can be asked
  GET  /v1/limits                                       what is left, and when more comes
  GET  /openapi.json                                    all of it, for generators of clients
  POST /mcp                                             tools for language models
`

// handle does what every request needs: its agent, its body, its span, its
// count and its deadlines.
func (g *Gateway) handle(path string, do func(*call)) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		began := time.Now()
		ctx, span := g.span(r, path)
		ctx, cancel := while(ctx, g.stopping)
		c := &call{w: g.newWriter(rw), r: r, ctx: ctx}
		defer func() {
			cancel()
			trouble := recover()
			gone := trouble == http.ErrAbortHandler || trouble == nil && c.unanswered() //nolint:errorlint // as net/http compares it
			cut := gone                                                                 // or an empty answer, or half of one, would be a good one
			if trouble != nil && !gone {
				g.config.Logger.Error("a bug in the gateway", zap.String("path", path), zap.Stack("stack")) // not the value: it may hold anything
				if cut = c.w.status != 0; !cut {
					refuse(c.w, http.StatusInternalServerError, "a bug in the gateway; it is in its log")
				}
			}
			status := c.w.status
			switch {
			case gone:
				status = statusCanceled
			case cut:
				status = http.StatusInternalServerError
			}
			g.metrics.done(path, status, began)
			span.SetAttributes(semconv.HTTPResponseStatusCode(status))
			if status >= http.StatusInternalServerError {
				span.SetStatus(codes.Error, http.StatusText(status))
			}
			span.End()
			if cut {
				panic(http.ErrAbortHandler)
			}
		}()
		leave, ok := g.admit(c)
		if !ok {
			return
		}
		defer leave()
		span.SetAttributes(attribute.String("fetch.agent", c.agent.Agent()))
		if do == nil {
			refuse(c.w, http.StatusNotFound, "there is nothing here; / tells what there is")
			return
		}
		do(c)
	})
}

// unanswered reports whether the client went away, or said that it sends no
// more, before anything was answered. HTTP would end that with an empty 200.
func (c *call) unanswered() bool {
	return c.r.Context().Err() != nil && !c.w.sent && c.r.Method != http.MethodHead &&
		(c.w.status == 0 || c.w.status == http.StatusOK || c.w.status == statusCanceled)
}

// admit finds out who asks, and takes in the body.
func (g *Gateway) admit(c *call) (leave func(), ok bool) {
	name, refused := g.who(c.r)
	if refused != "" {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="fetchworker"`)
		refuse(c.w, http.StatusUnauthorized, refused)
		return nil, false
	}
	if claimed := c.r.Header.Values(headerAgent); g.config.Tokens != nil && len(claimed) > 0 && claimed[0] != name {
		refuse(c.w, http.StatusForbidden, "the token is another agent's than "+headerAgent+" says")
		return nil, false
	}
	if !fetchworker.ValidToken(name) {
		refuse(c.w, http.StatusBadRequest, headerAgent+": 1 to 32 of a-z 0-9 _ -")
		return nil, false
	}
	var status int
	if c.body, status = readBody(c.w, c.r); status != 0 {
		refuse(c.w, status, "the body could not be taken: at most "+strconv.Itoa(bodyBytes)+" bytes, in ten seconds")
		return nil, false
	}
	c.r.Body = io.NopCloser(bytes.NewReader(c.body))
	one, leave, err := g.agents.use(name)
	if err != nil {
		c.w.Header().Set("Retry-After", "5")
		refuse(c.w, http.StatusServiceUnavailable, err.Error())
		return nil, false
	}
	c.agent = one
	return leave, true
}

// who is the agent that asks, or why nobody is.
func (g *Gateway) who(r *http.Request) (agent, refused string) {
	if g.config.Tokens == nil {
		if name := r.Header.Get(headerAgent); name != "" {
			return name, ""
		}
		return anybody, ""
	}
	token, ok := bearer(r)
	if !ok {
		return "", "a token is needed: Authorization: Bearer …"
	}
	if agent, ok = g.config.Tokens.Agent(token); !ok {
		return "", "the token is not known here"
	}
	return agent, ""
}

// bodyBytes bounds the body of a request: that of a fetch, and what a tool call
// of a language model has around it.
const bodyBytes = fetchworker.MaxRequestBytes + 32<<10

// readBody takes in the whole body, so that nothing that follows waits for a
// slow client. A status but 0 says why it did not.
func readBody(w *writer, r *http.Request) (body []byte, status int) {
	w.readWithin(w.patience.body)
	body, err := io.ReadAll(http.MaxBytesReader(w.ResponseWriter, r.Body, bodyBytes))
	if err == nil {
		w.readWithin(0)
		return body, 0
	}
	w.Header().Set("Connection", "close") // the rest is not waited for: the deadline stands
	var large *http.MaxBytesError
	var slow interface{ Timeout() bool }
	switch {
	case errors.As(err, &large):
		return nil, http.StatusRequestEntityTooLarge
	case errors.As(err, &slow) && slow.Timeout():
		return nil, http.StatusRequestTimeout
	default:
		return nil, http.StatusBadRequest
	}
}

// span is the span of a request, part of the caller's trace if it has one.
func (g *Gateway) span(r *http.Request, path string) (context.Context, trace.Span) {
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	name := r.Method
	if path != "" {
		name += " " + path
	}
	return g.config.Tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		semconv.HTTPRequestMethodKey.String(r.Method), semconv.HTTPRoute(path)))
}

// writer is a response of which each piece has its deadline, so that who reads
// slowly is cut off, and whose status is remembered.
type writer struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience patience
	status   int
	sent     bool // some of a body
}

func (g *Gateway) newWriter(w http.ResponseWriter) *writer {
	return &writer{ResponseWriter: w, control: http.NewResponseController(w), patience: g.config.patience}
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if w.status == 0 || w.status < http.StatusOK {
		w.status = status
	}
	w.writeWithin(w.patience.write)
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.sent = w.sent || len(p) > 0
	w.writeWithin(w.patience.write)
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *writer) Flush() {
	w.writeWithin(w.patience.write)
	_ = w.control.Flush() // the client is gone then
}

func (w *writer) writeWithin(d time.Duration) {
	_ = w.control.SetWriteDeadline(time.Now().Add(d)) // not of a connection: a test's recorder
}

// readWithin bounds what is read from the client; 0 takes the bound away.
func (w *writer) readWithin(d time.Duration) {
	at := time.Time{}
	if d > 0 {
		at = time.Now().Add(d)
	}
	_ = w.control.SetReadDeadline(at) // as above
}
