package terminal

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Clip makes a text visible and cuts it to n characters.
func Clip(s string, n int) string {
	s = Visible(s)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// Ago is how long a moment is past, in words.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	if d := now.Sub(t); d >= 0 {
		return Short(d) + " ago"
	}
	return "in " + Short(t.Sub(now))
}

// Short writes a duration in its two largest units.
func Short(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		unit := time.Second
		if d >= time.Hour {
			unit = time.Minute
		}
		text := d.Round(unit).String()
		text = strings.Replace(text, "m0s", "m", 1)
		return strings.Replace(text, "h0m", "h", 1)
	default:
		return strconv.Itoa(int(d/(24*time.Hour))) + "d" + strconv.Itoa(int(d%(24*time.Hour)/time.Hour)) + "h"
	}
}

// Stamp is a moment as a person reads it.
func Stamp(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z") + " (" + Ago(t, now) + ")"
}

// Clock is a moment that is near: its date is left out where it is today's.
func Clock(t, now time.Time) string {
	t, now = t.UTC(), now.UTC()
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05Z")
	}
	return t.Format("2006-01-02 15:04:05Z")
}
