package sheet

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

var (
	paramPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	// SlotPattern is a parameter in a path.
	SlotPattern = regexp.MustCompile(`\{([^{}]*)\}`)
)

func (op *Operation) check(c check, of *Spec) {
	if !NamePattern.MatchString(op.Name) || op.Name == Get {
		c.wrong("name %q: expected %s, and not get, which every provider has", op.Name, ExpectedName)
	}
	op.checkPath(c.at("path"))
	checkQuery(c.at("query"), op.Query)
	for i := range op.Params {
		param := &op.Params[i]
		param.check(c.at("params").at(param.Name))
		if slices.ContainsFunc(op.Params[:i], func(other Param) bool { return other.Name == param.Name || other.WireName() == param.WireName() }) {
			c.at("params").at(param.Name).wrong("another parameter has its name, or is sent under it")
		}
		carries := func(a Auth) bool { return strings.EqualFold(param.WireName(), a.InQuery()) }
		if !op.InPath(param.Name) && param.At == "" && slices.ContainsFunc(op.Auths(of), carries) {
			c.at("params").at(param.Name).wrong("it is sent as %s, which carries the key (auth)", param.WireName())
		}
	}
	for field, names := range map[string][]string{"any_of": op.AnyOf, "exclusive": slices.Concat(op.Exclusive...)} {
		for _, name := range names {
			if op.Param(name) == nil {
				c.at(field).wrong("expected names of parameters, got %q", name)
			}
		}
	}
	if op.Auth != nil {
		checkAuths(c.at("auth"), op.Auth)
		checkHeaders(c.at("auth"), of.Header, op.Auth)
	}
	checkHeaders(c.at("headers"), op.Header, op.Auths(of))
	of.checkSecretsOf(c.at("headers"), op.Header)
	of.checkSecretsOf(c.at("query"), op.Query)
	op.checkBody(c)
	if op.Timeout < 0 || op.Timeout > time.Hour {
		c.at("timeout").wrong("expected more than nothing and at most 1h")
	}
	c.only("columns", op.Format != FormatCSV && len(op.Columns) > 0, "format csv")
	checkNames(c.at("rights"), op.Rights)
	if op.Format != "" && !slices.Contains(Formats, op.Format) {
		c.at("format").wrong("%q: expected one of %s", op.Format, Join(Formats))
	}
	if op.Paging != nil {
		op.Paging.check(c.at("paging"), op)
	}
}

func (op *Operation) checkPath(c check) {
	if !strings.HasPrefix(op.Path, "/") || strings.ContainsAny(op.Path, "?# \\") || strings.ContainsFunc(op.Path, unicode.IsControl) {
		c.wrong("%q: expected a path such as /quote/{symbol}, without a query", op.Path)
	}
	for _, slot := range SlotPattern.FindAllStringSubmatch(op.Path, -1) {
		if param := op.Param(slot[1]); param == nil || !param.Required && param.Default == "" {
			c.wrong("{%s} expected a parameter of that name that is required or has a default", slot[1])
		}
	}
	rest := SlotPattern.ReplaceAllString(op.Path, "x")
	if strings.ContainsAny(rest, "{}") {
		c.wrong("%q: expected every { closed by a }", op.Path)
	}
	if _, err := url.PathUnescape(rest); err != nil {
		c.wrong("%q: expected valid percent-encoding", op.Path)
	}
	for segment := range strings.SplitSeq(rest, "/") {
		if segment == "." || segment == ".." {
			c.wrong("%q: expected no . or .. in it", op.Path)
		}
	}
}

// Auths are the keys that the operation sends.
func (op *Operation) Auths(of *Spec) []Auth {
	if op.Auth != nil {
		return op.Auth
	}
	return of.Auth
}

// Param is the parameter of that name, nil if there is none.
func (op *Operation) Param(name string) *Param {
	for i := range op.Params {
		if op.Params[i].Name == name {
			return &op.Params[i]
		}
	}
	return nil
}

// InPath reports whether a parameter fills a part of the path.
func (op *Operation) InPath(name string) bool { return strings.Contains(op.Path, "{"+name+"}") }

// ParamTypes are all types of parameters.
var ParamTypes = []ParamType{TypeString, TypeInt, TypeNumber, TypeBool, TypeEnum, TypeDate, TypeDateOrMS, TypeTime, TypeCSV}

// used are the types that use a field of a parameter; what a type does not
// use would be ignored without a word.
var used = map[string][]ParamType{
	"min": {TypeInt, TypeNumber}, "max": {TypeInt, TypeNumber, TypeString, TypeCSV},
	"enum": {TypeEnum, TypeString, TypeCSV}, "pattern": {TypeString, TypeCSV},
	"separator": {TypeCSV}, "repeat": {TypeCSV},
}

func (p *Param) check(c check) {
	if !paramPattern.MatchString(p.Name) {
		c.wrong("%q: expected a name of 1 to 64 letters, digits, _, . and -", p.Name)
	}
	if !slices.Contains(ParamTypes, p.Type) {
		c.at("type").wrong("%q: expected one of %s", p.Type, Join(ParamTypes))
		return
	}
	for _, field := range []struct {
		name  string
		given bool
	}{{"min", p.Min != 0 || p.Low != ""}, {"max", p.Max != 0 || p.High != ""}, {"enum", len(p.Enum) > 0}, {"pattern", p.Pattern != ""}, {"separator", p.Separator != ""}, {"repeat", p.Repeat}} {
		c.only(field.name, field.given && !slices.Contains(used[field.name], p.Type), "type "+strings.Join(strings.Split(Join(used[field.name]), ", "), " or "))
	}
	if p.Type == TypeEnum && len(p.Enum) == 0 {
		c.at("enum").wrong("expected the values of the enum")
	}
	if slices.Contains(p.Enum, "") {
		c.at("enum").wrong("expected no empty value: an empty text is never sent")
	}
	p.checkBounds(c)
	c.only("default", p.Required && p.Default != "", "a parameter that is not required")
	pattern, err := p.Compile()
	if err != nil {
		c.at("pattern").wrong("expected a regular expression (RE2): %v", err)
	} else if p.Default != "" {
		raw, _ := json.Marshal(p.Default) // a string always marshals
		if text, err := p.Value(raw, pattern); err != nil || text != p.Default {
			c.at("default").wrong("%q: expected %s", p.Default, p.Expects())
		}
	}
}

func (p *Param) checkBounds(c check) {
	if p.Type != TypeInt && (p.Max < 0 || p.Min < 0) {
		c.wrong("expected min and max from 0")
	}
	if p.Max != 0 && p.Max < p.Min {
		c.wrong("expected max not below min")
	}
	for field, bound := range map[string]string{"min": p.Low, "max": p.High} {
		if bound != "" && !numberPattern.MatchString(bound) {
			c.at(field).wrong("%q: expected a decimal number", bound)
		}
	}
	if p.Low != "" && p.High != "" && decimal(p.High) < decimal(p.Low) {
		c.wrong("expected max not below min")
	}
	if p.Separator != "" && p.Repeat {
		c.wrong("expected separator or repeat, not both")
	}
}

// Compile is the pattern as it must match: the whole value.
func (p *Param) Compile() (*regexp.Regexp, error) {
	if p.Pattern == "" {
		return nil, nil //nolint:nilnil // no pattern is no error
	}
	return regexp.Compile(`^(?:` + p.Pattern + `)$`)
}

// PagingKinds are all kinds of paging.
var PagingKinds = []PagingKind{PageNumber, PageOffset, PageNext, PageLink, PageToken}

// check checks paging of an operation, or of get, which has no parameters but
// takes any.
func (p *Paging) check(c check, op *Operation) {
	if !slices.Contains(PagingKinds, p.Kind) {
		c.at("kind").wrong("%q: expected one of %s", p.Kind, Join(PagingKinds))
		return
	}
	counted := p.Kind == PageNumber || p.Kind == PageOffset
	for _, field := range []struct{ name, param string }{{"param", p.Param}, {"size", p.Size}} {
		switch {
		case field.param == "" && field.name == "param" && p.Kind != PageLink && (op != nil || counted || p.Kind == PageToken):
			c.at(field.name).wrong("expected the parameter that asks for a page")
		case field.param != "" && op != nil && op.Param(field.param) == nil:
			c.at(field.name).wrong("%q: expected the name of a parameter", field.param)
		}
	}
	switch {
	case counted && p.Size == "" && p.Each < 1:
		c.wrong("expected size (a parameter) or each (a number): the items of a page")
	case (p.Kind == PageNext || p.Kind == PageToken) && !isPointer(p.Next):
		c.at("next").wrong("%q: expected a JSON pointer such as /next_url", p.Next)
	}
	for field, pointer := range map[string]string{"items": p.Items, "total": p.Total} {
		if pointer != "" {
			checkPointer(c.at(field), pointer)
		}
	}
	if p.Each < 0 || p.First < 0 {
		c.wrong("expected each and first from 0")
	}
	c.only("next", (counted || p.Kind == PageLink) && p.Next != "", "kind next_url or token")
	c.only("first", p.Kind != PageNumber && p.First != 0, "kind page")
	c.only("size", !counted && p.Size != "", "kind page or offset")
	c.only("each", !counted && p.Each != 0, "kind page or offset")
	c.only("items", (!counted || p.Total != "") && p.Items != "", "kind page or offset, and without total")
	c.only("total", !counted && p.Total != "", "kind page or offset")
}

// Formats are all formats.
var Formats = []Format{FormatJSON, FormatCSV, FormatAny, FormatValue, FormatText, FormatNDJSON, FormatImage, FormatBinary}
