package call

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"fetchworker/internal/providers/plan"
	"fetchworker/internal/providers/sheet"
)

// Keys gives the value that a variable has now, "" if none. It is asked before
// every call, so that a key that was exchanged is used at once.
type Keys func(variable string) string

// errNoToken wraps why no token could be had.
var errNoToken = errors.New("no token")

// sign adds the keys to a request that is about to be made, and the fixed
// texts that hold secrets. It returns the query as it is sent, which is the
// call's own where no key is in it.
func (p *Caller) sign(ctx context.Context, call *plan.Call, header http.Header) (query string, err error) {
	var signed url.Values
	set := func(name, value string) {
		if signed == nil {
			if signed = maps.Clone(call.Query); signed == nil {
				signed = url.Values{}
			}
		}
		signed.Set(name, value)
	}
	for i := range call.Auth {
		a := &call.Auth[i]
		switch a.Kind {
		case sheet.AuthQuery:
			set(a.Name, p.secret(cmp.Or(a.Env, p.variable)))
		case sheet.AuthHeader:
			header.Set(a.Name, a.Prefix+p.secret(cmp.Or(a.Env, p.variable)))
		case sheet.AuthBearer:
			header.Set("Authorization", "Bearer "+p.secret(cmp.Or(a.Env, p.variable)))
		case sheet.AuthBasic:
			both := base64.StdEncoding.EncodeToString([]byte(p.secret(a.UserEnv) + ":" + p.secret(a.PasswordEnv)))
			p.redact.Add(both)
			header.Set("Authorization", "Basic "+both)
		case sheet.AuthOAuth2:
			token, err := p.tokens.token(ctx, p, a)
			if err != nil {
				return "", err
			}
			header.Set("Authorization", "Bearer "+token)
		case sheet.AuthNone:
		}
	}
	for _, fixed := range p.api.SecretQuery(call) {
		if !call.Query.Has(fixed.Name) && !signed.Has(fixed.Name) {
			set(fixed.Name, p.fill(fixed.Text))
		}
	}
	if signed == nil {
		return call.RawQuery, nil
	}
	return signed.Encode(), nil
}

// secret is the value of a variable, which from now on is redacted.
func (p *Caller) secret(variable string) string {
	value := p.keys(variable)
	p.redact.Add(value)
	return value
}

// fill puts secrets into a text of the sheet.
func (p *Caller) fill(text string) string {
	return sheet.SecretPattern.ReplaceAllStringFunc(text, func(name string) string {
		return p.secret(p.api.Secrets[strings.Trim(name, "${}")])
	})
}

// tokens are those that a caller has got for its client credentials. They are
// shared with nobody, and replaced before they end.
type tokens struct {
	mu   sync.Mutex
	have map[string]*oauth2.Token // by the address, the scopes and the credentials
}

// early is how long before its end a token is replaced.
const early = 30 * time.Second

func (t *tokens) token(ctx context.Context, p *Caller, a *sheet.Auth) (string, error) {
	id, secret := p.secret(a.ClientIDEnv), p.secret(a.ClientSecretEnv)
	key := strings.Join([]string{a.TokenURL, strings.Join(a.Scopes, " "), id, secret}, "\n")
	t.mu.Lock() // one asks, the others wait for what it gets
	defer t.mu.Unlock()
	if token := t.have[key]; token != nil && (token.Expiry.IsZero() || time.Until(token.Expiry) > early) {
		return token.AccessToken, nil
	}
	config := clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: a.TokenURL, Scopes: a.Scopes}
	client := &http.Client{Transport: p.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoToken, err)
	}
	p.redact.Add(token.AccessToken)
	t.have = map[string]*oauth2.Token{key: token} // what was got for other credentials is of no use
	return token.AccessToken, nil
}

// forget drops a token that the API refuses, so that the next call gets
// another.
func (t *tokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.have = nil
}
