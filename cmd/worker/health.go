package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"fetchworker/internal/app"
)

// healthTimeout is what a look at the worker may take, and a little more.
const healthTimeout = 4 * time.Second

var errNotReady = errors.New("not ready")

// health asks the worker of this machine, or this container, whether it is
// ready: images without a shell have no curl.
func health(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	config, err := app.Load(getenv)
	if err != nil {
		return err
	}
	if config.HTTPAddr == "off" { // then nobody can ask, and a container is none the worse for it
		_, err := fmt.Fprintln(stdout, "FETCH_HTTP_ADDR=off: not asked")
		return err
	}
	host, port, err := net.SplitHostPort(config.HTTPAddr)
	if err != nil {
		return fmt.Errorf("%w: FETCH_HTTP_ADDR: %w", errUsage, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	res, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotReady, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("%w: %w", errNotReady, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s", errNotReady, strings.TrimSpace(string(text)))
	}
	_, err = stdout.Write(text)
	return err
}
