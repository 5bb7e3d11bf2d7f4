package gateway

import (
	"net/http"

	"fetchworker"
	"fetchworker/internal/gateway/tools"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.opentelemetry.io/otel/propagation"
)

// mcp serves tools for language models over streamable HTTP. It keeps no
// session: any gateway serves any call.
func (g *Gateway) mcp() func(*call) {
	server := tools.NewServer(g.config.Version, g.catalogue, func(r *mcp.CallToolRequest) (*fetchworker.Client, func(), error) {
		one, leave, err := g.agents.use(r.Extra.Header.Get(headerAgent))
		if err != nil {
			return nil, nil, err
		}
		return one.Client, leave, nil
	})
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{
		Stateless: true, JSONResponse: true, PropagateRequestCancellation: true,
		DisableLocalhostProtection: true, // guard has looked at it, and knows of tokens
	})
	return func(c *call) {
		// The SDK hands the headers of a request to its tools.
		c.r.Header.Set(headerAgent, c.agent.Agent())
		c.r.Header.Del("Authorization")
		propagation.TraceContext{}.Inject(c.ctx, propagation.HeaderCarrier(c.r.Header))
		if c.r.Header.Get("Accept") == "" || c.r.Header.Get("Accept") == "*/*" {
			c.r.Header.Set("Accept", "application/json, text/event-stream")
		}
		handler.ServeHTTP(c.w, c.r.WithContext(c.ctx))
	}
}
