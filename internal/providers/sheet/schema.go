package sheet

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// schema is the JSON Schema (2020-12) of an object, as far as it is used here.
type schema struct {
	Type        any                `json:"type,omitempty"`
	Description string             `json:"description,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Additional  *bool              `json:"additionalProperties,omitempty"`
	AnyOf       []*schema          `json:"anyOf,omitempty"`
	Not         *schema            `json:"not,omitempty"`
	AllOf       []*schema          `json:"allOf,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	MaxItems    int64              `json:"maxItems,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	MaxLength   int64              `json:"maxLength,omitempty"`
	Minimum     json.Number        `json:"minimum,omitempty"`
	Maximum     json.Number        `json:"maximum,omitempty"`
	Default     string             `json:"default,omitempty"`
}

// Schema is the JSON Schema of an operation's parameters. It takes what the
// operation takes, and for a range that only the check knows a little more.
func (op *Operation) Schema() json.RawMessage {
	closed := false
	s := &schema{Type: "object", Additional: &closed, Properties: map[string]*schema{}}
	for i := range op.Params {
		p := &op.Params[i]
		s.Properties[p.Name] = p.schema()
		if p.Required {
			s.Required = append(s.Required, p.Name)
		}
	}
	for _, name := range op.AnyOf {
		s.AnyOf = append(s.AnyOf, &schema{Required: []string{name}})
	}
	for _, some := range op.Exclusive {
		for i, one := range some {
			for _, other := range some[i+1:] {
				s.AllOf = append(s.AllOf, &schema{Not: &schema{Required: []string{one, other}}})
			}
		}
	}
	raw, _ := json.Marshal(s) // plain fields: cannot fail
	return raw
}

func (p *Param) schema() *schema {
	s := &schema{Description: p.Expects(), Default: p.Default}
	text := []string{"string"}
	switch p.Type {
	case TypeInt:
		s.Type, s.Minimum, s.Maximum = []string{"integer", "string"}, bound(p.Low), bound(p.High)
		if s.Minimum == "" {
			s.Minimum = json.Number(strconv.FormatInt(p.Min, 10))
		}
		if s.Maximum == "" && p.Max != 0 {
			s.Maximum = json.Number(strconv.FormatInt(p.Max, 10))
		}
	case TypeNumber:
		s.Type, s.Minimum, s.Maximum = []string{"number", "string"}, bound(p.Low), bound(p.High)
	case TypeBool:
		s.Type = []string{"boolean", "string"}
	case TypeDateOrMS:
		s.Type = []string{"string", "integer"}
	case TypeCSV:
		item := &schema{Type: "string", Enum: p.Enum, Pattern: whole(p.Pattern)}
		s.AnyOf = []*schema{{Type: "string"}, {Type: "array", Items: item, MaxItems: orDefault(p.Max, maxItems)}}
	case TypeString:
		s.Type, s.Enum, s.Pattern, s.MaxLength = text, p.Enum, whole(p.Pattern), orDefault(p.Max, maxParamLen)
	case TypeEnum:
		s.Type, s.Enum = text, p.Enum
	case TypeDate, TypeTime:
		s.Type = text
	}
	return s
}

// bound is a decimal number as a sheet has it; empty: none.
func bound(decimal string) json.Number { return json.Number(decimal) }

// whole is a pattern matched against the whole value, where JSON Schema's
// matches anywhere. RE2's flags at its beginning are Go's own.
func whole(pattern string) string {
	if pattern == "" || strings.HasPrefix(pattern, "(?") {
		return ""
	}
	return "^(?:" + pattern + ")$"
}

// Names are an API's operations, sorted.
func (s *Spec) Names() []string { return slices.Sorted(maps.Keys(s.Operations)) }
