package terminal

import "runtime"

// Version is what each of our programs says of itself.
func Version(program, version string) string {
	return "fetchworker " + program + " " + version + " " + runtime.Version()
}
