package store

// Bucket is the key-value bucket that the fleet shares.
const Bucket = "fetch_providers"

// PermitsKey is where a provider's permits are counted.
func PermitsKey(provider string) string { return "permits." + provider }

// QuotaKey is where the permits of all providers are counted that share a quota.
func QuotaKey(quota string) string { return "quota." + quota }

// CircuitKey is where a provider's circuit is.
func CircuitKey(provider string) string { return "circuit." + provider }

// ControlKey is where an operator's orders for a provider are.
func ControlKey(provider string) string { return "control." + provider }

// WorkerKey is where a live worker says so.
func WorkerKey(worker string) string { return "worker." + worker }
