package sheet

import (
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// AuthKind is how an API wants its key.
type AuthKind string

// The ways to send a key.
const (
	AuthNone   AuthKind = "none"   // no key: the provider is always configured
	AuthQuery  AuthKind = "query"  // as query parameter Auth.Name
	AuthHeader AuthKind = "header" // as header Auth.Name
	AuthBearer AuthKind = "bearer" // as Authorization: Bearer KEY
	AuthBasic  AuthKind = "basic"  // as Authorization: Basic, of a user and a password
	AuthOAuth2 AuthKind = "oauth2" // as Authorization: Bearer, of a token got for client credentials
)

// Auth says how a key is sent. Prefer a header where the API has one: a key in
// a URL ends in logs that are not ours.
type Auth struct {
	Kind   AuthKind
	Name   string // of the query parameter or header
	Prefix string // of a header's value, before the key: "Token "
	Env    string // variable that holds the key, if another than the provider's

	UserEnv, PasswordEnv string // basic

	// oauth2, client credentials (RFC 6749 section 4.4)
	TokenURL, ClientIDEnv, ClientSecretEnv string
	Scopes                                 []string
}

// KeyVariable is the environment variable that holds the provider's key.
func (s *Spec) KeyVariable() string {
	if s.KeyEnv != "" {
		return s.KeyEnv
	}
	return s.EnvPrefix + "_API_KEY"
}

// KeyVariable is the variable that holds the key that is sent.
func (a *Auth) KeyVariable(s *Spec) string {
	if a.Env != "" {
		return a.Env
	}
	return s.KeyVariable()
}

// Variables are the environment variables that must be set for the API to be
// called; none where it needs no key.
func (s *Spec) Variables() []string {
	names := slices.Collect(maps.Values(s.Secrets))
	for i := range s.Auth {
		names = append(names, s.Auth[i].variables(s)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// AllVariables are those, and what operations and paths with an auth of their
// own need besides.
func (s *Spec) AllVariables() []string {
	names := s.Variables()
	for _, op := range s.Operations {
		for i := range op.Auth {
			names = append(names, op.Auth[i].variables(s)...)
		}
	}
	for _, path := range s.GetPaths {
		for i := range path.Auth {
			names = append(names, path.Auth[i].variables(s)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (a *Auth) variables(s *Spec) []string {
	switch a.Kind {
	case AuthQuery, AuthHeader, AuthBearer:
		return []string{a.KeyVariable(s)}
	case AuthBasic:
		return []string{a.UserEnv, a.PasswordEnv}
	case AuthOAuth2:
		return []string{a.ClientIDEnv, a.ClientSecretEnv}
	case AuthNone:
	}
	return nil
}

// secretName is what headers and parameters with a secret are called.
var secretName = regexp.MustCompile(`(?i)key|token|secret|passw|auth|credential|signature|session|cookie`)

// FixedSecrets are texts of the sheet that are secrets by their names, though
// no variable holds them. They are redacted as keys are.
func (s *Spec) FixedSecrets() []string {
	var found []string
	add := func(texts map[string]string) {
		for name, text := range texts {
			if secretName.MatchString(name) && !SecretPattern.MatchString(text) {
				_, last, _ := strings.Cut(text, " ") // without "Bearer"
				for _, one := range []string{text, last} {
					if len(one) >= 8 { // shorter ones are words
						found = append(found, one)
					}
				}
			}
		}
	}
	add(s.Query)
	add(s.Header)
	for _, op := range s.Operations {
		add(op.Query)
		add(op.Header)
	}
	return found
}

const expectedAuth = "none, bearer, {query: NAME}, {header: NAME, prefix: TEXT}, {basic: {user_env, password_env}}, {oauth2: {token_url, client_id_env, client_secret_env, scopes}}, or a list of these"

func checkAuths(c check, auths []Auth) {
	if len(auths) == 0 {
		c.wrong("expected %s", expectedAuth)
	}
	seen := map[string]bool{}
	for i := range auths {
		at := c
		if len(auths) > 1 {
			at = c.item(i)
		}
		auths[i].check(at)
		if auths[i].Kind == AuthNone && len(auths) > 1 {
			at.wrong("none: expected alone")
		}
		if place := auths[i].header() + "?" + auths[i].InQuery(); place != "?" && seen[place] {
			at.wrong("another key is sent in the same place")
		} else {
			seen[place] = true
		}
	}
}

func (a *Auth) check(c check) {
	variable := func(field, name string) {
		if !prefixPattern.MatchString(name) {
			c.at(field).wrong("%q: expected a variable's name, such as TIDES_TOKEN", name)
		}
	}
	switch a.Kind {
	case AuthNone, AuthBearer:
	case AuthQuery:
		if a.Name == "" {
			c.wrong("expected %s", expectedAuth)
		}
	case AuthHeader:
		switch {
		case a.Name == "":
			c.wrong("expected %s", expectedAuth)
		case !tokenPattern.MatchString(a.Name):
			c.wrong("header %q: expected the name of a header: letters, digits and -", a.Name)
		case slices.Contains(ourHeaders, http.CanonicalHeaderKey(a.Name)):
			c.wrong("header %s: it is set by every call itself", a.Name)
		}
	case AuthBasic:
		variable("user_env", a.UserEnv)
		variable("password_env", a.PasswordEnv)
	case AuthOAuth2:
		target, err := url.Parse(a.TokenURL)
		if err != nil || target.Scheme != "https" && target.Scheme != "http" || target.Host == "" || target.User != nil {
			c.at("token_url").wrong("expected https://host/path")
		}
		variable("client_id_env", a.ClientIDEnv)
		variable("client_secret_env", a.ClientSecretEnv)
	default:
		c.wrong("expected %s", expectedAuth)
	}
	c.only("prefix", a.Kind != AuthHeader && a.Prefix != "", "header")
	if a.Env != "" {
		variable("env", a.Env)
		c.only("env", a.Kind != AuthHeader && a.Kind != AuthQuery && a.Kind != AuthBearer, "header, query or bearer")
	}
	if strings.ContainsFunc(a.Prefix, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		c.at("prefix").wrong("expected a text without control characters")
	}
}

// header is the header that carries the key, "" if none does.
func (a *Auth) header() string {
	switch a.Kind {
	case AuthHeader:
		return http.CanonicalHeaderKey(a.Name)
	case AuthBearer, AuthBasic, AuthOAuth2:
		return "Authorization"
	case AuthNone, AuthQuery:
	}
	return ""
}

// InQuery is the query parameter that carries the key, "" if none does.
func (a *Auth) InQuery() string {
	if a.Kind == AuthQuery {
		return a.Name
	}
	return ""
}
