// Package testdata is recorded exchanges with the built-in providers, one
// readable file each. All of them are made up after the documented and
// observed behaviour of the APIs: no figure is real.
//
// It is a package so that a program, too, can play them without a network.
package testdata

import "embed"

// FS holds <provider>/<name>.http.
//
//go:embed fmp polygon fred newsapi
var FS embed.FS
