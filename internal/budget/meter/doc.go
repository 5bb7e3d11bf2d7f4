// Package meter counts bytes against a month's budget, for a fleet: what one
// worker saw is summed here and added to the fleet's counter about every 100
// ms. How that counter is kept, and who is told of a threshold, is up to
// whoever opens the meter.
package meter
