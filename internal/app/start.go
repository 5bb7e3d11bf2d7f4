package app

import "go.uber.org/zap"

// Fields are the configuration in force, for the log's first lines. They hold
// no password and no key.
func (c Config) Fields() []zap.Field {
	fields := []zap.Field{
		zap.String("http_addr", c.HTTPAddr), zap.String("pprof", c.Pprof), zap.String("log_level", c.LogLevel),
		zap.Int("concurrency", c.Concurrency), zap.Int("replicas", c.Topology.Replicas),
		zap.Duration("result_age", c.ResultAge), zap.Duration("max_life", c.MaxLife),
		zap.Duration("circuit_open", c.CircuitOpen), zap.Int("circuit_failures", c.CircuitFailures),
		zap.Duration("retry_base", c.RetryBase), zap.Int("retries", c.Retries), zap.String("replay", c.Replay),
		zap.String("gateway", c.Gateway.Open), zap.String("gateway_addr", c.Gateway.Addr), zap.String("gateway_tokens", c.Gateway.Tokens), zap.Strings("gateway_origins", c.Gateway.Origins),
	}
	if c.NATS.Remote() {
		return append(fields, zap.String("nats_url", c.NATS.Redacted()), zap.String("nats_creds", c.NATS.Creds),
			zap.String("nats_context", c.NATS.Context), zap.String("nats_inbox_prefix", c.NATS.Inbox))
	}
	sync := "always"
	if c.Sync > 0 {
		sync = c.Sync.String()
	}
	return append(fields, zap.String("nats_addr", c.NATSAddr), zap.String("data_dir", c.DataDir), zap.String("sync", sync))
}
