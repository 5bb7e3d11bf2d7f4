// Package catalogue reads YAML files of the operator's: data sheets over the
// built-in ones, and the agents' rights. It reports all mistakes of a file at
// once, each with its line, what was found and what was expected.
package catalogue
