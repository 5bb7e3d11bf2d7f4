package catalogue

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"

	"fetchworker"
	"fetchworker/internal/budget/ledger"
	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// spec reads one provider over what it is already.
func (d *document) spec(n *yaml.Node, path string, spec *sheet.Spec) {
	at := func(field string) string { return path + "." + field }
	d.fields(n, path, map[string]func(*yaml.Node){
		"base_url":        d.text(at("base_url"), &spec.BaseURL),
		"env_prefix":      d.text(at("env_prefix"), &spec.EnvPrefix),
		"key_env":         d.text(at("key_env"), &spec.KeyEnv),
		"auth":            d.auth(at("auth"), &spec.Auth),
		"secrets":         d.texts(at("secrets"), &spec.Secrets),
		"rate_headers":    d.rateHeaders(at("rate_headers"), &spec.RateHeaders),
		"key_params":      d.list(at("key_params"), &spec.KeyParams),
		"query":           d.texts(at("query"), &spec.Query),
		"headers":         d.texts(at("headers"), &spec.Header),
		"limits":          d.limits(at("limits"), &spec.Limits),
		"quota":           d.text(at("quota"), &spec.Quota),
		"concurrency":     d.whole(at("concurrency"), "a whole number of calls at once, from 1", &spec.AtOnce),
		"groups":          func(n *yaml.Node) { d.groups(n, at("groups"), spec) },
		"tier":            d.text(at("tier"), &spec.Tier),
		"tiers":           func(n *yaml.Node) { d.tiers(n, at("tiers"), spec) },
		"bytes_per_month": d.bytes(at("bytes_per_month"), &spec.BytesPerMonth),
		"timeout":         d.duration(at("timeout"), &spec.Timeout),
		"fresh":           d.age(at("fresh"), &spec.Fresh),
		"stale":           d.age(at("stale"), &spec.Stale),
		"rights":          d.list(at("rights"), &spec.Rights),
		"notice":          d.text(at("notice"), &spec.Notice),
		"error_text":      d.list(at("error_text"), &spec.ErrorText),
		"own":             func(n *yaml.Node) { d.rules(n, at("own"), &spec.Own) },
		"errors":          func(n *yaml.Node) { d.rules(n, at("errors"), &spec.ErrorRules) },
		"get_paths":       func(n *yaml.Node) { d.getPaths(n, at("get_paths"), spec) },
		"get_paging":      func(n *yaml.Node) { d.paging(n, at("get_paging"), &spec.GetPaging) },
		"operations":      func(n *yaml.Node) { d.operations(n, at("operations"), spec) },
	})
}

// auth reads one way to send a key, or a list of them.
func (d *document) auth(path string, to *[]sheet.Auth) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*to = nil
		if n.Kind != yaml.SequenceNode {
			*to = []sheet.Auth{d.oneAuth(n, path)}
			return
		}
		d.sequence(n, path, func(at string, item *yaml.Node) { *to = append(*to, d.oneAuth(item, at)) })
	}
}

func (d *document) oneAuth(n *yaml.Node, path string) (auth sheet.Auth) {
	if n.Kind == yaml.ScalarNode {
		word(d, path, &auth.Kind, []sheet.AuthKind{sheet.AuthNone, sheet.AuthBearer})(n)
		return auth
	}
	var kinds []string
	kind := func(kind sheet.AuthKind, read func(*yaml.Node)) func(*yaml.Node) {
		return func(n *yaml.Node) {
			auth.Kind = kind
			kinds = append(kinds, string(kind))
			read(n)
		}
	}
	d.fields(n, path, map[string]func(*yaml.Node){
		"query":  kind(sheet.AuthQuery, d.text(path+".query", &auth.Name)),
		"header": kind(sheet.AuthHeader, d.text(path+".header", &auth.Name)),
		"bearer": kind(sheet.AuthBearer, d.text(path+".bearer", &auth.Env)),
		"basic": kind(sheet.AuthBasic, func(n *yaml.Node) {
			d.fields(n, path+".basic", map[string]func(*yaml.Node){
				"user_env":     d.text(path+".basic.user_env", &auth.UserEnv),
				"password_env": d.text(path+".basic.password_env", &auth.PasswordEnv),
			})
		}),
		"oauth2": kind(sheet.AuthOAuth2, func(n *yaml.Node) {
			d.fields(n, path+".oauth2", map[string]func(*yaml.Node){
				"token_url":         d.text(path+".oauth2.token_url", &auth.TokenURL),
				"client_id_env":     d.text(path+".oauth2.client_id_env", &auth.ClientIDEnv),
				"client_secret_env": d.text(path+".oauth2.client_secret_env", &auth.ClientSecretEnv),
				"scopes":            d.list(path+".oauth2.scopes", &auth.Scopes),
			})
		}),
		"prefix": d.text(path+".prefix", &auth.Prefix),
		"env":    d.text(path+".env", &auth.Env),
	})
	if n.Kind == yaml.MappingNode && len(kinds) != 1 {
		d.fail(n, "%s: expected one of query, header, bearer, basic and oauth2, got %s", path, strings.Join(append(kinds, "none")[:max(len(kinds), 1)], " and "))
	}
	return auth
}

func (d *document) rateHeaders(path string, to **sheet.RateHeaders) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*to = &sheet.RateHeaders{}
		if n.Kind == yaml.ScalarNode {
			var off string
			word(d, path, &off, []string{"off"})(n)
			(*to).Off = true
			return
		}
		d.fields(n, path, map[string]func(*yaml.Node){
			"limit":     d.text(path+".limit", &(*to).Limit),
			"remaining": d.text(path+".remaining", &(*to).Remaining),
			"reset":     d.text(path+".reset", &(*to).Reset),
			"window":    d.duration(path+".window", &(*to).Window),
		})
	}
}

func (d *document) tiers(n *yaml.Node, path string, spec *sheet.Spec) {
	tiers := maps.Clone(spec.Tiers)
	if tiers == nil {
		tiers = map[string]sheet.Tier{}
	}
	d.each(n, path, func(key, value *yaml.Node) {
		tier := tiers[key.Value]
		at := path + "." + key.Value
		d.fields(value, at, map[string]func(*yaml.Node){
			"limits":  d.limits(at+".limits", &tier.Limits),
			"forbids": d.list(at+".forbids", &tier.Forbids),
		})
		tiers[key.Value] = tier
	})
	spec.Tiers = tiers
}

// whole reads how many calls one counts as, or may be made at once: none would
// be a way around limits.
func (d *document) whole(where, expected string, to *int64) func(*yaml.Node) {
	return read(d, where, expected, to, func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err == nil && n < 1 {
			err = strconv.ErrRange
		}
		return n, err
	})
}

func (d *document) groups(n *yaml.Node, path string, spec *sheet.Spec) {
	groups := maps.Clone(spec.Groups)
	if groups == nil {
		groups = map[string]ledger.Limits{}
	}
	d.each(n, path, func(key, value *yaml.Node) {
		var limits ledger.Limits
		d.limits(path+"."+key.Value, &limits)(value)
		groups[key.Value] = limits
	})
	spec.Groups = groups
}

// rules reads rules; they are tried before those a provider has.
func (d *document) rules(n *yaml.Node, path string, to *[]sheet.Rule) {
	var rules []sheet.Rule
	d.sequence(n, path, func(at string, item *yaml.Node) {
		var rule sheet.Rule
		var class, code string
		d.fields(item, at, map[string]func(*yaml.Node){
			"status":   func(n *yaml.Node) { d.statuses(n, at+".status", &rule.Status) },
			"at":       d.list(at+".at", &rule.At),
			"header":   d.texts(at+".header", &rule.Header),
			"equals":   d.list(at+".equals", &rule.Equals),
			"prefix":   d.list(at+".prefix", &rule.Prefix),
			"contains": d.list(at+".contains", &rule.Contains),
			"class":    d.text(at+".class", &class),
			"code":     d.text(at+".code", &code),
			"min_hold": d.duration(at+".min_hold", &rule.MinHold),
			"no_cache": d.boolean(at+".no_cache", &rule.NoCache),
			"hint":     d.text(at+".hint", &rule.Hint),
		})
		for i, pointer := range rule.At {
			if pointer == "body" {
				rule.At[i] = ""
			}
		}
		rule.Class, rule.Code = wire.Class(class), fetchworker.Code(code)
		rules = append(rules, rule)
	})
	*to = append(rules, *to...)
}

// statuses reads 400 or 4xx, one or a list.
func (d *document) statuses(n *yaml.Node, path string, to *[]int) {
	var texts []string
	d.list(path, &texts)(n)
	for _, text := range texts {
		status, err := strconv.Atoi(strings.TrimSuffix(text, "xx"))
		if err != nil || strings.HasSuffix(text, "xx") != (status < 10) {
			d.fail(n, "%s: expected statuses such as 400 or 2xx, got %q", path, text)
			return
		}
		*to = append(*to, status)
	}
}

func (d *document) getPaths(n *yaml.Node, path string, spec *sheet.Spec) {
	spec.GetPaths = nil
	d.sequence(n, path, func(at string, item *yaml.Node) {
		var get sheet.GetPath
		d.fields(item, at, map[string]func(*yaml.Node){
			"prefix":    d.text(at+".prefix", &get.Prefix),
			"from_root": d.boolean(at+".from_root", &get.FromRoot),
			"auth":      d.auth(at+".auth", &get.Auth),
		})
		spec.GetPaths = append(spec.GetPaths, get)
	})
}

func (d *document) operations(n *yaml.Node, path string, spec *sheet.Spec) {
	operations := maps.Clone(spec.Operations)
	if operations == nil {
		operations = map[string]*sheet.Operation{}
	}
	d.each(n, path, func(key, value *yaml.Node) {
		op := sheet.Operation{Name: key.Value}
		if known := operations[key.Value]; known != nil {
			op = *known
		}
		d.operation(value, path+"."+key.Value, &op)
		operations[key.Value] = &op
	})
	spec.Operations = operations
}

// operation reads one operation over what it is already.
func (d *document) operation(n *yaml.Node, path string, op *sheet.Operation) {
	at := func(field string) string { return path + "." + field }
	d.fields(n, path, map[string]func(*yaml.Node){
		"path":       d.text(at("path"), &op.Path),
		"method":     word(d, at("method"), &op.Method, []string{"GET", "POST"}),
		"reads_only": d.boolean(at("reads_only"), &op.ReadsOnly),
		"body":       word(d, at("body"), &op.Body, []sheet.BodyKind{sheet.BodyJSON, sheet.BodyForm}),
		"template":   d.json(at("template"), &op.Template),
		"headers":    d.texts(at("headers"), &op.Header),
		"timeout":    d.duration(at("timeout"), &op.Timeout),
		"columns":    d.list(at("columns"), &op.Columns),
		"query":      d.texts(at("query"), &op.Query),
		"params":     func(n *yaml.Node) { d.params(n, at("params"), op) },
		"any_of":     d.list(at("any_of"), &op.AnyOf),
		"exclusive":  func(n *yaml.Node) { d.exclusive(n, at("exclusive"), op) },
		"limits":     d.limits(at("limits"), &op.Limits),
		"group":      d.text(at("group"), &op.Group),
		"cost":       d.whole(at("cost"), "a whole number of calls from 1", &op.Cost),
		"auth":       d.auth(at("auth"), &op.Auth),
		"rights":     d.list(at("rights"), &op.Rights),
		"format":     word(d, at("format"), &op.Format, sheet.Formats),
		"fresh":      d.age(at("fresh"), &op.Fresh),
		"stale":      d.age(at("stale"), &op.Stale),
		"paging":     func(n *yaml.Node) { d.paging(n, at("paging"), &op.Paging) },
	})
}

func (d *document) exclusive(n *yaml.Node, path string, op *sheet.Operation) {
	op.Exclusive = nil
	d.sequence(n, path, func(at string, item *yaml.Node) {
		var names []string
		d.list(at, &names)(item)
		op.Exclusive = append(op.Exclusive, names)
	})
}

// params reads parameters: one that the operation has is replaced.
func (d *document) params(n *yaml.Node, path string, op *sheet.Operation) {
	op.Params = slices.Clone(op.Params)
	d.each(n, path, func(key, value *yaml.Node) {
		param := sheet.Param{Name: key.Value, Type: sheet.TypeString}
		at := func(field string) string { return path + "." + key.Value + "." + field }
		var least, most *yaml.Node // what they are depends on the type, which may come later
		d.fields(value, path+"."+key.Value, map[string]func(*yaml.Node){
			"wire":      d.text(at("wire"), &param.Wire),
			"type":      word(d, at("type"), &param.Type, sheet.ParamTypes),
			"required":  d.boolean(at("required"), &param.Required),
			"default":   d.text(at("default"), &param.Default),
			"pattern":   d.text(at("pattern"), &param.Pattern),
			"min":       func(n *yaml.Node) { least = n },
			"max":       func(n *yaml.Node) { most = n },
			"at":        d.text(at("at"), &param.At),
			"separator": d.text(at("separator"), &param.Separator),
			"repeat":    d.boolean(at("repeat"), &param.Repeat),
			"enum":      d.list(at("enum"), &param.Enum),
			"expected":  d.text(at("expected"), &param.Expected),
		})
		d.bound(at("min"), least, &param, &param.Min, &param.Low)
		d.bound(at("max"), most, &param, &param.Max, &param.High)
		if known := op.Param(param.Name); known != nil {
			*known = param
		} else {
			op.Params = append(op.Params, param)
		}
	})
}

// bound reads a min or max: a decimal number of a number, else a whole one. A
// bound of 0 is one as well, where the field's own 0 means none.
func (d *document) bound(path string, n *yaml.Node, param *sheet.Param, whole *int64, decimal *string) {
	switch {
	case n == nil:
	case param.Type == sheet.TypeNumber:
		d.text(path, decimal)(n)
	default:
		d.number(path, whole)(n)
		if param.Type == sheet.TypeInt && *whole == 0 {
			*decimal = "0"
		}
	}
}

func (d *document) paging(n *yaml.Node, path string, to **sheet.Paging) {
	paging := &sheet.Paging{}
	d.fields(n, path, map[string]func(*yaml.Node){
		"kind":  word(d, path+".kind", &paging.Kind, sheet.PagingKinds),
		"param": d.text(path+".param", &paging.Param),
		"first": d.number(path+".first", &paging.First),
		"size":  d.text(path+".size", &paging.Size),
		"each":  d.number(path+".each", &paging.Each),
		"items": d.text(path+".items", &paging.Items),
		"total": d.text(path+".total", &paging.Total),
		"next":  d.text(path+".next", &paging.Next),
	})
	*to = paging
}
