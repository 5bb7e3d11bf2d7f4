package headers

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	longestDate = 24 * time.Hour       // a Date further back is rather a wrong clock
	longestAge  = 366 * 24 * time.Hour // more is none
)

// Age is how old a body was when it came, by RFC 9111 section 4.2.3: what its
// Age says, or how far its Date lies back, and at least what the way took
// since the call began.
func Age(header http.Header, began, came time.Time) time.Duration {
	var age time.Duration
	if text := strings.TrimSpace(header.Get("Age")); text != "" {
		if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds > 0 {
			// corrected_age_value: the answer may have been on its way since
			// the call began.
			age = min(time.Duration(min(seconds, int64(longestAge/time.Second)))*time.Second, longestAge) + came.Sub(began)
		}
	}
	text := header.Get("Date")
	if text == "" {
		return age
	}
	if date, err := http.ParseTime(text); err == nil {
		// A Date has whole seconds: less than two is no age.
		if apparent := came.Sub(date); apparent >= 2*time.Second && apparent <= longestDate {
			age = max(age, apparent)
		}
	}
	return age
}
