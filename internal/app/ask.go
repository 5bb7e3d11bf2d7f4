package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// askTime is what a look at a process may take, and a little more.
const askTime = 4 * time.Second

// ErrNotReady says that a process is not ready, or cannot be asked.
var ErrNotReady = errors.New("not ready")

// AskReady asks the process that serves on FETCH_HTTP_ADDR of this machine, or
// this container, whether it is ready: images without a shell have no curl.
func AskReady(ctx context.Context, addr string) (says string, err error) {
	if addr == "off" { // then nobody can ask, and a container is none the worse for it
		return "FETCH_HTTP_ADDR=off: not asked", nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("%w: FETCH_HTTP_ADDR: %w", ErrConfig, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return "", fmt.Errorf("health: %w", err)
	}
	res, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	says = strings.TrimSpace(string(text))
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: %s", ErrNotReady, says)
	}
	return says, nil
}
