package sheet

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/wire"
)

// The names of what a sheet has.
var (
	NamePattern   = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	prefixPattern = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)
	tokenPattern  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$") // of a header, RFC 9110
)

// ExpectedName is what NamePattern matches, in words.
const ExpectedName = "a name of 1 to 32 characters a-z, 0-9, _ and -"

// ourHeaders are set by the call itself or by net/http: another value would
// break every call.
var ourHeaders = []string{
	"Accept-Encoding", "Connection", "Content-Length", "Content-Type", "Expect", "Host", "If-Modified-Since", "If-None-Match",
	"Keep-Alive", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// Validate finds everything that cannot be right, on every level of the
// sheet: what would make a call fail, and what would be ignored without a
// word. The error is Mistakes.
func (s *Spec) Validate() error {
	var found Mistakes
	s.check(check{found: &found})
	if len(found) == 0 {
		return nil
	}
	return found
}

func (s *Spec) check(c check) {
	if !NamePattern.MatchString(s.Name) {
		c.wrong("provider %q: expected %s", s.Name, ExpectedName)
	}
	if _, err := ParseBase(s.BaseURL); err != nil {
		c.at("base_url").wrong("%v", err)
	}
	if !prefixPattern.MatchString(s.EnvPrefix) {
		c.at("env_prefix").wrong("%q: expected the start of a variable's name, such as TIDES", s.EnvPrefix)
	}
	if s.KeyEnv != "" && !prefixPattern.MatchString(s.KeyEnv) {
		c.at("key_env").wrong("%q: expected a variable's name, such as TIDES_TOKEN", s.KeyEnv)
	}
	checkAuths(c.at("auth"), s.Auth)
	s.checkSecrets(c)
	for i, name := range s.KeyParams {
		if name == "" {
			c.at("key_params").item(i).wrong("expected the name of a query parameter")
		}
	}
	checkQuery(c.at("query"), s.Query)
	checkHeaders(c.at("headers"), s.Header, s.Auth)
	if s.RateHeaders != nil {
		s.RateHeaders.check(c.at("rate_headers"), s)
	}
	s.checkLimits(c)
	s.checkGroups(c)
	if s.Timeout <= 0 || s.Timeout > time.Hour {
		c.at("timeout").wrong("expected more than nothing and at most 1h")
	}
	checkNames(c.at("rights"), s.Rights)
	for i, pointer := range s.ErrorText {
		checkPointer(c.at("error_text").item(i), pointer)
	}
	for i := range s.Own {
		s.Own[i].checkOwn(c.at("own").item(i))
	}
	for i := range s.ErrorRules {
		s.ErrorRules[i].check(c.at("errors").item(i))
	}
	for i := range s.GetPaths {
		s.GetPaths[i].check(c.at("get_paths").item(i))
	}
	if s.GetPaging != nil {
		s.GetPaging.check(c.at("get_paging"), nil)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Operations)) {
		op := s.Operations[name]
		op.check(c.at("operations").at(name), s)
		if op.Name != name {
			c.at("operations").at(name).wrong("the operation is called %q", op.Name)
		}
	}
}

func (s *Spec) checkLimits(c check) {
	for i, w := range s.Limits {
		if w.N < 1 || w.Per < time.Second {
			c.at("limits").wrong("window %d: expected at least one call in at least a second", i+1)
		}
	}
	if s.BytesPerMonth < 0 {
		c.at("bytes_per_month").wrong("expected no less than nothing")
	}
	if _, ok := s.Tiers[s.Tier]; !ok && (s.Tier != "" || len(s.Tiers) > 0) {
		c.at("tier").wrong("%q: expected one of tiers: %s", s.Tier, strings.Join(slices.Sorted(maps.Keys(s.Tiers)), ", "))
	}
	for name, tier := range s.Tiers {
		if !NamePattern.MatchString(name) {
			c.at("tiers").at(name).wrong("%q: expected %s", name, ExpectedName)
		}
		checkNames(c.at("tiers").at(name).at("forbids"), tier.Forbids)
	}
}

// checkNames notes rights that no profile could hold.
func checkNames(c check, names []string) {
	for i, name := range names {
		if !NamePattern.MatchString(name) {
			c.item(i).wrong("%q: expected %s", name, ExpectedName)
		}
	}
}

// checkSecrets notes secrets that no variable holds, and texts that name none.
func (s *Spec) checkSecrets(c check) {
	for name, variable := range s.Secrets {
		if !NamePattern.MatchString(name) {
			c.at("secrets").at(name).wrong("%q: expected %s", name, ExpectedName)
		}
		if !prefixPattern.MatchString(variable) {
			c.at("secrets").at(name).wrong("%q: expected a variable's name, such as TIDES_SECRET", variable)
		}
	}
	s.checkSecretsOf(c.at("query"), s.Query)
	s.checkSecretsOf(c.at("headers"), s.Header)
}

func (s *Spec) checkSecretsOf(c check, texts map[string]string) {
	for name, text := range texts {
		for _, found := range SecretPattern.FindAllStringSubmatch(text, -1) {
			if s.Secrets[found[1]] == "" {
				c.at(name).wrong("%s: expected one of secrets: %s", found[0], strings.Join(slices.Sorted(maps.Keys(s.Secrets)), ", "))
			}
		}
	}
}

// SecretPattern is how a text names a secret.
var SecretPattern = regexp.MustCompile(`\$\{([^{}]*)\}`)

func (r *RateHeaders) check(c check, s *Spec) {
	for field, name := range map[string]string{"limit": r.Limit, "remaining": r.Remaining, "reset": r.Reset} {
		if name != "" && !tokenPattern.MatchString(name) {
			c.at(field).wrong("%q: expected the name of a header: letters, digits and -", name)
		}
	}
	known := slices.Concat(s.Limits, s.Tiers[s.Tier].Limits)
	if r.Window != 0 && !slices.ContainsFunc(known, func(w ledger.Window) bool { return w.Per == r.Window }) {
		c.at("window").wrong("%v: expected the length of one of limits", r.Window)
	}
	c.only("window", r.Off && (r.Window != 0 || r.Limit+r.Remaining+r.Reset != ""), "headers that are believed")
}

func checkQuery(c check, query map[string]string) {
	if _, ok := query[""]; ok {
		c.wrong("expected every parameter to have a name")
	}
}

// checkHeaders notes headers that HTTP does not know, that are not the
// sheet's to set, or that the key needs.
func checkHeaders(c check, headers map[string]string, auths []Auth) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !tokenPattern.MatchString(name):
			c.at(name).wrong("expected the name of a header: letters, digits and -")
		case slices.Contains(ourHeaders, canonical):
			c.at(name).wrong("%s is set by every call itself", canonical)
		case slices.ContainsFunc(auths, func(a Auth) bool { return a.header() == canonical }):
			c.at(name).wrong("%s carries the key (auth)", canonical)
		case seen[canonical] != "":
			c.at(name).wrong("%s is here twice", canonical)
		case strings.ContainsFunc(headers[name], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			c.at(name).wrong("expected a value without line breaks and control characters")
		}
		seen[canonical] = name
	}
}

func (g *GetPath) check(c check) {
	if !strings.HasPrefix(g.Prefix, "/") {
		c.at("prefix").wrong("expected a path such as /v2/, got %q", g.Prefix)
	}
	if g.Auth != nil {
		checkAuths(c.at("auth"), g.Auth)
	}
}

// ruleCodes are those that a rule may give.
var ruleCodes = []fetchworker.Code{fetchworker.CodeNotFound, fetchworker.CodeNotEntitled, fetchworker.CodeRejected}

func (r *Rule) check(c check) {
	switch {
	case !slices.Contains(wire.AnswerClasses(), r.Class):
		c.at("class").wrong("%q: expected one of %s", r.Class, Join(wire.AnswerClasses()))
	case r.Class == wire.ClassPermanent && !slices.Contains(ruleCodes, r.Code):
		c.at("code").wrong("%q: expected one of %s", r.Code, Join(ruleCodes))
	}
	c.only("code", r.Class != wire.ClassPermanent && r.Code != "", "class permanent")
	c.only("min_hold", r.Class != wire.ClassThrottled && r.MinHold != 0, "class throttled")
	c.only("no_cache", r.Class != wire.ClassOK && r.NoCache, "class ok")
	c.only("hint", r.Class == wire.ClassOK && r.Hint != "", "a class that is an error")
	r.checkMatch(c)
}

// checkOwn checks a rule by which the API's own errors are known.
func (r *Rule) checkOwn(c check) {
	if r.Class != "" || r.Code != "" || r.MinHold != 0 || r.NoCache || r.Hint != "" {
		c.wrong("expected status, at, equals, prefix and contains only: own says whose words an error is in, not what it is")
	}
	r.checkMatch(c)
}

func (r *Rule) checkMatch(c check) {
	switch {
	case len(r.At) == 0 && len(r.Equals)+len(r.Prefix)+len(r.Contains) > 0:
		c.wrong("equals, prefix and contains: expected with at, which says where to look")
	case len(r.At) == 0 && len(r.Status) == 0 && len(r.Header) == 0:
		c.wrong("expected at least status, at or header")
	}
	for name := range r.Header {
		if !tokenPattern.MatchString(name) {
			c.at("header").at(name).wrong("expected the name of a header: letters, digits and -")
		}
	}
	for _, pointer := range r.At {
		if pointer != "" && !isPointer(pointer) {
			c.at("at").wrong("%q: expected a JSON pointer such as /error, or body for the whole body as text", pointer)
		}
	}
	for _, status := range r.Status {
		if (status < 1 || status > 5) && (status < 100 || status > 599) {
			c.at("status").wrong("%d: expected 100 to 599, or a class such as 2xx", status)
		}
	}
}

func checkPointer(c check, pointer string) {
	if !isPointer(pointer) {
		c.wrong("%q: expected a JSON pointer such as /error", pointer)
	}
}

var badEscape = regexp.MustCompile(`~([^01]|$)`)

// isPointer reports whether a text is a JSON pointer below the whole.
func isPointer(text string) bool {
	return strings.HasPrefix(text, "/") && !badEscape.MatchString(text)
}

// Join writes words as a list.
func Join[T ~string](values []T) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = string(value)
	}
	return strings.Join(texts, ", ")
}
