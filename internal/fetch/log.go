package fetch

import (
	"time"

	"fetchworker/internal/providers"

	"go.uber.org/zap"
)

// logEnd writes the one line of a request's turn: how it ended, after how
// many calls, how long it took.
func (w *Worker) logEnd(r *request, e end, result *providers.Result) {
	entry := w.logger.Check(zap.InfoLevel, "request")
	if entry == nil {
		return
	}
	fields := []zap.Field{
		zap.String("provider", r.Provider), zap.String("operation", r.Operation),
		zap.String("agent", r.Agent), zap.String("request_id", r.ID), zap.String("lane", laneName(r)),
		zap.Int("generation", r.letter.Generation),
		zap.Duration("since_publish", time.Since(r.letter.RequestedAt)),
	}
	if e.answer != nil {
		fields = append(fields, zap.String("status", string(e.answer.Status)), zap.Bool("final", e.answer.Final),
			zap.Int("calls", e.answer.Calls), zap.Int("failures", e.answer.Failures))
		if p := e.answer.Problem; p != nil {
			fields = append(fields, zap.String("problem", p.Type))
		}
	}
	if e.letter != nil {
		fields = append(fields, zap.String("class", string(e.letter.Class)), zap.Time("not_before", e.letter.NotBefore),
			zap.Int("calls", e.letter.Calls), zap.Int("failures", e.letter.Failures), zap.String("error", e.letter.Error))
	}
	if result != nil {
		fields = append(fields, zap.Int("http_status", result.HTTPStatus), zap.Duration("latency", result.Latency))
	}
	if id := traceID(r.letter.Traceparent); id != "" {
		fields = append(fields, zap.String("trace_id", id))
	}
	entry.Write(fields...)
}

// traceID is the trace id of a W3C traceparent, empty if it is not one.
func traceID(traceparent string) string {
	const idAt, idLen = 3, 32
	if len(traceparent) < idAt+idLen+1 || traceparent[2] != '-' || traceparent[idAt+idLen] != '-' {
		return ""
	}
	return traceparent[idAt : idAt+idLen]
}
