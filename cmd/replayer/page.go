package main

import (
	"errors"
	"fmt"

	"fetchworker/internal/app"
	"fetchworker/internal/page"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func (c *cli) cmdPage() *cobra.Command {
	return &cobra.Command{
		Use:   "page",
		Short: "Show the operators' page in a browser",
		Long: `Show the operators' page: what status, list, show, usage, audit and doctor tell,
live, and the acts, each with its plan, its consequences and a reason. It listens
on FETCH_PAGE_ADDR, by default 127.0.0.1:8090; any address but loopback needs
FETCH_PAGE_TOKEN, which has to be given to open it. It acts with the credentials
that it is started with. Ctrl-C ends it.`,
		Example: `  replayer page
  FETCH_PAGE_ADDR=0.0.0.0:8090 FETCH_PAGE_TOKEN=… replayer page`,
		Args: cobra.NoArgs,
		RunE: c.do(func(cmd *cobra.Command, _ []string) error {
			config, err := app.Load(c.getenv)
			if err != nil {
				return err
			}
			if config.PageAddr == "off" {
				return misused("set FETCH_PAGE_ADDR to an address, or unset it", "FETCH_PAGE_ADDR is off")
			}
			ctx, l, done, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			shown, err := c.showPage(cmd, l.JS.Conn(), config, zap.NewNop())
			if err != nil {
				return failed("set FETCH_PAGE_ADDR to an address that is free", "%w", err)
			}
			if err := c.printf("the operators' page is at %s\n", shown.URL()); err != nil {
				return errors.Join(err, shown.Close())
			}
			select {
			case err = <-shown.Ended():
				return err
			case <-ctx.Done():
			}
			err = shown.Close()
			if c.refused.Load() != nil {
				return errors.Join(fmt.Errorf("the page ended: %w", ctx.Err()), err)
			}
			return err
		}),
	}
}

func (c *cli) showPage(cmd *cobra.Command, nc *nats.Conn, config app.Config, log *zap.Logger) (*page.Shown, error) {
	return page.Show(cmd.Context(), nc, page.Options{
		Addr: config.PageAddr, Token: config.PageToken, User: userOf(nc), By: c.getenv("USER"), Trace: config.PageTrace, Server: nc.ConnectedUrl(), Log: log,
	})
}
