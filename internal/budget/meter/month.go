package meter

import "time"

// Month is the calendar month, UTC, whose counter a moment belongs to.
func Month(t time.Time) string { return t.UTC().Format("2006-01") }

// NextMonth is when the next counter starts.
func NextMonth(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC)
}

// thresholds of the month's budget, in percent.
var thresholds = [...]int{70, 85, 95}

// passed is how many thresholds used is at or beyond.
func passed(used, limit int64) (n int) {
	for _, percent := range thresholds {
		if limit > 0 && used*100 >= limit*int64(percent) {
			n++
		}
	}
	return n
}
