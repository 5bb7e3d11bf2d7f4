package app

import (
	"fmt"
	"net/url"
	"strings"

	"fetchworker/internal/broker"
)

// standardGatewayAddr is where a gateway listens if nothing else is said.
const standardGatewayAddr = "127.0.0.1:8081"

// Gateway says how HTTP and MCP are served.
type Gateway struct {
	Open    string   // FETCH_GATEWAY: whether a worker serves them; auto (with an embedded server), on, off
	Addr    string   // FETCH_GATEWAY_ADDR: loopback only without tokens
	Given   bool     // the address was given, so it must be had
	Tokens  string   // FETCH_GATEWAY_TOKENS: file of SHA-256 of bearer tokens, and their agents
	Origins []string // FETCH_GATEWAY_ORIGINS: of pages in browsers that may ask
}

func (r *reader) gateway() Gateway {
	g := Gateway{
		Open:   r.oneOf("FETCH_GATEWAY", "auto", "on", "off"),
		Addr:   r.text("FETCH_GATEWAY_ADDR", standardGatewayAddr),
		Given:  r.getenv("FETCH_GATEWAY_ADDR") != "",
		Tokens: r.getenv("FETCH_GATEWAY_TOKENS"),
	}
	if !hasPort(g.Addr) {
		r.fail("FETCH_GATEWAY_ADDR", fmt.Sprintf("must be host:port or :port; it is %q", g.Addr))
	} else if _, _, err := broker.ListenAddress(g.Addr); err != nil && g.Tokens == "" {
		r.fail("FETCH_GATEWAY_ADDR", fmt.Sprintf("must be a loopback host:port without FETCH_GATEWAY_TOKENS; it is %q", g.Addr))
	}
	for origin := range strings.SplitSeq(r.getenv("FETCH_GATEWAY_ORIGINS"), ",") {
		if origin = strings.TrimSpace(origin); origin == "" {
			continue
		}
		if u, err := url.Parse(origin); err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			r.fail("FETCH_GATEWAY_ORIGINS", fmt.Sprintf("must be such as https://app.example.com, with commas between them; it has %q", origin))
			continue
		}
		g.Origins = append(g.Origins, origin)
	}
	return g
}
