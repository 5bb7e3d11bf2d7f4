package main

import (
	"context"

	"fetchworker/internal/app"
	"fetchworker/internal/page"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// showPage shows the operators' page of a worker that is the whole service. A
// second one on the same machine may find the address taken; only one that was
// asked for must be had.
func showPage(ctx context.Context, nc *nats.Conn, server string, config app.Config, getenv func(string) string, tell func(url string), listener *app.Listener, logger *zap.Logger, closing *app.Stack) error {
	if config.PageAddr == "off" {
		return nil
	}
	shown, err := page.Show(ctx, nc, page.Options{
		Addr: config.PageAddr, Token: config.PageToken, By: getenv("USER"), Trace: config.PageTrace, Server: server, Log: logger,
	})
	if err != nil && getenv("FETCH_PAGE_ADDR") == "" {
		logger.Warn("no operators' page: set FETCH_PAGE_ADDR to an address that is free, or off", zap.Error(err))
		return nil
	}
	if err != nil {
		return err
	}
	closing.Push("page", shown.Close)
	listener.Shows(shown.Addr())
	if tell != nil {
		tell(shown.URL())
	}
	logger.Info("the operators' page is shown", zap.String("url", shown.URL()))
	return nil
}
