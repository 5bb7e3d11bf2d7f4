package sheet

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"fetchworker"
)

var (
	NamePattern  = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	paramPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	slotPattern  = regexp.MustCompile(`\{([^{}]*)\}`)
)

const ExpectedName = "a name of 1 to 32 characters a-z, 0-9, _ and -"

// validate finds what would make an operation fail for every request.
func (op *Operation) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if !NamePattern.MatchString(op.Name) || op.Name == opGet {
		wrong("name %q: expected %s, and not get, which every provider has", op.Name, ExpectedName)
	}
	if !strings.HasPrefix(op.Path, "/") || strings.ContainsAny(op.Path, "?# ") {
		wrong("path %q: expected a path such as /quote/{symbol}, without a query", op.Path)
	}
	for _, slot := range slotPattern.FindAllStringSubmatch(op.Path, -1) {
		if param := op.Param(slot[1]); param == nil || !param.Required && param.Default == "" {
			wrong("path: {%s} expected a parameter of that name that is required or has a default", slot[1])
		}
	}
	if rest := slotPattern.ReplaceAllString(op.Path, ""); strings.ContainsAny(rest, "{}") {
		wrong("path %q: expected every { closed by a }", op.Path)
	}
	for i := range op.Params {
		if err := op.Params[i].Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range slices.Concat(append(slices.Clone(op.Exclusive), op.AnyOf)...) {
		if op.Param(name) == nil {
			wrong("any_of and exclusive: expected names of parameters, got %q", name)
		}
	}
	if op.Paging != nil {
		if err := op.Paging.validate(op); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (op *Operation) Param(name string) *Param {
	for i := range op.Params {
		if op.Params[i].Name == name {
			return &op.Params[i]
		}
	}
	return nil
}

var ParamTypes = []ParamType{TypeString, TypeInt, TypeNumber, TypeBool, TypeEnum, TypeDate, TypeDateOrMS, TypeTime, TypeCSV}

func (p *Param) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("parameter %s: "+format, append([]any{p.Name}, args...)...))
	}
	if !paramPattern.MatchString(p.Name) {
		wrong("expected a name of 1 to 64 letters, digits, _, . and -")
	}
	if !slices.Contains(ParamTypes, p.Type) {
		wrong("type %q: expected one of %s", p.Type, Join(ParamTypes))
	}
	if p.Type == TypeEnum && len(p.Enum) == 0 {
		wrong("expected the values of the enum")
	}
	if p.Max < 0 || p.Min < 0 || p.Max != 0 && p.Max < p.Min {
		wrong("expected min and max from 0, and max not below min")
	}
	pattern, err := p.compile()
	if err != nil {
		wrong("pattern: expected a regular expression (RE2): %w", err)
	} else if p.Default != "" {
		raw, _ := json.Marshal(p.Default) // a string always marshals
		if text, err := p.check(raw, pattern); err != nil || text != p.Default {
			wrong("default %q: expected %s", p.Default, p.expected())
		}
	}
	return errors.Join(errs...)
}

// compile is the pattern as it must match: the whole value.
func (p *Param) compile() (*regexp.Regexp, error) {
	if p.Pattern == "" {
		return nil, nil //nolint:nilnil // no pattern is no error
	}
	return regexp.Compile(`^(?:` + p.Pattern + `)$`)
}

func (p *Paging) validate(op *Operation) error {
	has := func(name string) bool { return op.Param(name) != nil }
	switch {
	case p.Kind == PageNext && has(p.Param) && strings.HasPrefix(p.Next, "/"):
	case (p.Kind == PageNumber || p.Kind == PageOffset) && has(p.Param) && (has(p.Size) || p.Each > 0):
	case !slices.Contains(PagingKinds, p.Kind):
		return fmt.Errorf("paging: kind %q: expected one of %s", p.Kind, Join(PagingKinds))
	default:
		return errors.New("paging: expected param (a parameter), and for next_url next (a JSON pointer), else size (a parameter) or each (a number)")
	}
	return nil
}

var PagingKinds = []PagingKind{PageNumber, PageOffset, PageNext}

// Classes and codes that a rule may give.
var (
	ruleClasses = []fetchworker.Class{
		fetchworker.ClassOK, fetchworker.ClassTransient, fetchworker.ClassThrottled, fetchworker.ClassUnauthorized, fetchworker.ClassPermanent,
	}
	ruleCodes = []fetchworker.Code{fetchworker.CodeNotFound, fetchworker.CodeNotEntitled, fetchworker.CodeRejected}
)

func (r *Rule) Validate() error {
	switch {
	case !slices.Contains(ruleClasses, r.Class):
		return fmt.Errorf("class %q: expected one of %s", r.Class, Join(ruleClasses))
	case r.Class == fetchworker.ClassPermanent && !slices.Contains(ruleCodes, r.Code):
		return fmt.Errorf("code %q: expected one of %s", r.Code, Join(ruleCodes))
	case r.Class != fetchworker.ClassPermanent && r.Code != "":
		return errors.New("code: expected only with class permanent")
	case r.Class != fetchworker.ClassThrottled && r.MinHold != 0:
		return errors.New("min_hold: expected only with class throttled")
	}
	return r.validateMatch()
}

// ValidateOwn checks a rule by which the API's own errors are known.
func (r *Rule) ValidateOwn() error {
	if r.Class != "" || r.Code != "" || r.MinHold != 0 || r.NoCache || r.Hint != "" {
		return errors.New("expected status, at, equals, prefix and contains only: a rule of own says whose words an error is in, not what it is")
	}
	return r.validateMatch()
}

func (r *Rule) validateMatch() error {
	switch {
	case len(r.At) == 0 && len(r.Equals)+len(r.Prefix)+len(r.Contains) > 0:
		return errors.New("equals, prefix and contains: expected with at, which says where to look")
	case len(r.At) == 0 && len(r.Status) == 0:
		return errors.New("expected at least status or at")
	}
	for _, pointer := range r.At {
		if pointer != "" && !strings.HasPrefix(pointer, "/") {
			return fmt.Errorf("at %q: expected a JSON pointer such as /error, or body for the whole body as text", pointer)
		}
	}
	for _, status := range r.Status {
		if (status < 1 || status > 5) && (status < 100 || status > 599) {
			return fmt.Errorf("status %d: expected 100 to 599, or a class such as 2xx", status)
		}
	}
	return nil
}

func (a Auth) validate() error {
	switch a.Kind {
	case AuthNone, AuthBearer:
		return nil
	case AuthQuery, AuthHeader:
		if a.Name != "" {
			return nil
		}
	}
	return errors.New("auth: expected none, bearer, {query: NAME} or {header: NAME}")
}

// Formats are all formats.
var Formats = []Format{FormatJSON, FormatCSV, FormatAny}

// Join writes words as a list.
func Join[T ~string](values []T) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = string(value)
	}
	return strings.Join(texts, ", ")
}
