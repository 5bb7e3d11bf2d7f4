// Package sheet is the data sheet of an upstream API: what it is (Spec), what
// of it cannot be right (Validate), and what values a parameter takes.
//
// Go data sheets and the YAML catalogue fill the same struct, and everything
// that differs between APIs is in it. The package reads no file, makes no
// connection and knows no key.
package sheet
