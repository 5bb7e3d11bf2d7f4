package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"fetchworker/internal/budget"
	"fetchworker/internal/dlq"
	"fetchworker/internal/record"

	"go.uber.org/zap"
)

// eventsWaiting bounds the events that are on their way to the stream. They
// are rare; more than this means that the server is away.
const eventsWaiting = 256

// events tells operators what the gates see: a log line each, and a message
// on the event stream by the one worker of the fleet that made it happen.
type events struct {
	log    *record.Log
	logger *zap.Logger
	queue  chan budget.Event
	done   sync.WaitGroup
}

func newEvents(log *record.Log, logger *zap.Logger) *events {
	e := &events{log: log, logger: logger, queue: make(chan budget.Event, eventsWaiting)}
	e.done.Go(e.publish)
	return e
}

// see is a gate's observer: it must not wait.
func (e *events) see(ev budget.Event) {
	if !ev.Mine {
		return
	}
	level := zap.InfoLevel
	switch ev.Severity {
	case budget.SeverityWarning:
		level = zap.WarnLevel
	case budget.SeverityError:
		level = zap.ErrorLevel
	}
	e.logger.Log(level, ev.Kind, zap.String("provider", ev.Provider), zap.String("state", string(ev.State)), zap.String("why", ev.Why),
		zap.String("operation", ev.Operation), zap.String("agent", ev.Agent),
		zap.Time("until", ev.Until), zap.Int("percent", ev.Percent), zap.Int64("used_bytes", ev.Used), zap.Int64("limit_bytes", ev.Limit))
	select {
	case e.queue <- ev:
	default:
		e.logger.Warn("event dropped", zap.String("kind", ev.Kind), zap.String("provider", ev.Provider))
	}
}

func (e *events) publish() {
	for ev := range e.queue {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := dlq.Emit(ctx, e.log, dlq.Event{
			Kind: ev.Kind, Provider: ev.Provider, ID: fmt.Sprintf("%s.%d", ev.Worker, ev.Time.UnixNano()), Time: ev.Time, Data: ev,
		})
		cancel()
		if err != nil {
			e.logger.Warn("event not stored", zap.String("kind", ev.Kind), zap.String("provider", ev.Provider), zap.Error(err))
		}
	}
}

// close waits until what was seen is stored. No gate may be open any more.
func (e *events) close() error {
	close(e.queue)
	e.done.Wait()
	return nil
}
