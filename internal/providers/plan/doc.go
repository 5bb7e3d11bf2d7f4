// Package plan makes calls of what agents ask for: a request's parameters are
// checked against the data sheet and become path, query and body (API.Plan),
// and an answer becomes the parameters that ask for the page after it
// (API.Next). It makes no connection and knows no key.
package plan

import "errors"

// ErrUnknownOperation is what Plan wraps when the provider has no such
// operation. Nothing was spent.
var ErrUnknownOperation = errors.New("unknown operation")
