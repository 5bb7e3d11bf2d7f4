package fetch

import (
	"fetchworker/internal/providers"

	"go.uber.org/zap"
)

// logTurn writes the one line of a request's turn: how it ended, after how
// many calls, how long it took. An end without letter and answer is that of a
// request that had its answer already.
func (w *Worker) logTurn(r *request, e ending, result *providers.Result) {
	entry := w.logger.Check(zap.InfoLevel, "request")
	if entry == nil {
		return
	}
	calls, failures := r.Calls, r.Failures
	fields := []zap.Field{
		zap.String("provider", r.Provider), zap.String("operation", r.Operation),
		zap.String("agent", r.Agent), zap.String("request_id", r.ID), zap.String("lane", laneName(r)),
		zap.Int("generation", r.Generation),
		zap.Duration("since_publish", r.now().Sub(r.RequestedAt)),
	}
	if e.letter == nil && e.answer == nil {
		fields = append(fields, zap.Bool("answered_before", true))
	}
	if e.answer != nil {
		calls, failures = e.answer.Calls, e.answer.Failures
		fields = append(fields, zap.String("status", string(e.answer.Status)), zap.Bool("final", e.answer.Final),
			zap.String("source", string(e.answer.Source)))
		if p := e.answer.Problem; p != nil {
			fields = append(fields, zap.String("problem", p.Type))
		}
	}
	if e.letter != nil {
		calls, failures = e.letter.Calls, e.letter.Failures
		fields = append(fields, zap.String("class", string(e.letter.Class)), zap.Time("not_before", e.letter.NotBefore),
			zap.String("error", e.letter.Error))
	}
	fields = append(fields, zap.Int("calls", calls), zap.Int("failures", failures))
	if result != nil {
		fields = append(fields, zap.Int("http_status", result.HTTPStatus), zap.Duration("latency", result.Latency))
		if result.Err != nil { // with the addresses that agents are not told
			fields = append(fields, zap.NamedError("cause", result.Err))
		}
	}
	if id := traceID(r.Traceparent); id != "" {
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
