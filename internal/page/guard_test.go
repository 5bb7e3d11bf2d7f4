package page_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// Whoever lacks the token sees nothing and does nothing; other sites, and names
// that point here, neither.
func TestOnlyWhoMayGetsIn(t *testing.T) {
	const token = "a-token-of-twenty-letters"
	r := newRig(t, token)
	pause := url.Values{"do": {"pause"}, "provider": {"fmp"}, "for": {"1h"}, "by": {"eve"}, "reason": {"x"}}
	for _, v := range views {
		if code, body, _ := r.get(v); code != http.StatusSeeOther || strings.Contains(body, "fmp") {
			t.Errorf("%s without the token: %d %s", v, code, body)
		}
	}
	if code, _, _ := r.post("/control", pause); code != http.StatusUnauthorized {
		t.Errorf("an act without the token: %d", code)
	}
	if code, to, _ := r.post("/login", url.Values{"token": {"guess"}}); code != http.StatusSeeOther || to != "/login?wrong" {
		t.Error(code, to)
	}
	// By the header, as a script does.
	if code, _, _ := r.post("/control", pause, "Authorization", "Bearer "+token); code != http.StatusSeeOther {
		t.Errorf("with the token: %d", code)
	}
	if code, _, _ := r.post("/control", pause, "Authorization", "Bearer "+token[1:]); code != http.StatusUnauthorized {
		t.Errorf("with another token: %d", code)
	}
	// Another site's form carries the browser's cookies, and is refused all the same.
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		{"Sec-Fetch-Site", "", "Origin", "null"},
	} {
		if code, _, _ := r.post("/control", pause, append(headers, "Authorization", "Bearer "+token)...); code != http.StatusForbidden {
			t.Errorf("%v: %d", headers, code)
		}
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL+"/login", strings.NewReader("token="+token))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	cookies := answer.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || strings.Contains(cookies[0].Value, token) {
		t.Fatalf("%+v", cookies)
	}
	q, err = http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+"/letters", nil)
	if err != nil {
		t.Fatal(err)
	}
	q.AddCookie(cookies[0])
	if answer, err = r.client.Do(q); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	_ = answer.Body.Close()
}

// A name of somebody else's that points to this machine opens nothing.
func TestWithoutATokenOnlyThisMachinesNamesOpenIt(t *testing.T) {
	r := newRig(t, "")
	for host, want := range map[string]int{"127.0.0.1:8090": 200, "localhost:8090": 200, "[::1]:8090": 200, "evil.example": 421, "127.0.0.1.evil.example:8090": 421, "10.0.0.5:8090": 421} {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Host = host
		answer, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", host, answer.StatusCode, want)
		}
	}
}
