package circuit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Call is who asks for what, as far as a circuit cares.
type Call struct {
	Operation string // as OperationOf names it
	Agent     string
	Key       string // a digest of operation and parameters
}

// opGet is the operation that takes any path of a provider. What fails there
// is one path, not all of them.
const opGet = "get"

// longestOperation bounds a name, in bytes. Paths may be longer.
const longestOperation = 80

// OperationOf names what a request's failures are counted by: its operation,
// and for get the path as well.
func OperationOf(operation string, params json.RawMessage) string {
	if operation != opGet {
		return operation
	}
	var get struct {
		Path string `json:"path"`
	}
	if json.Unmarshal(params, &get) != nil || get.Path == "" {
		return operation
	}
	name := operation + " " + get.Path
	if len(name) > longestOperation {
		sum := sha256.Sum256([]byte(name))
		name = name[:longestOperation-10] + "~" + hex.EncodeToString(sum[:4])
	}
	return name
}
