package catalogue

import (
	"encoding/json"

	"fetchworker/internal/providers/sheet"
	"fetchworker/internal/wire"
)

// object is a JSON Schema of fields with known names.
func object(fields map[string]any) map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": fields}
}

func named(values any, pattern string) map[string]any {
	return map[string]any{"type": "object", "patternProperties": map[string]any{pattern: values}, "additionalProperties": false}
}

func listOf(item any) map[string]any { return map[string]any{"type": "array", "items": item} }

func either(schemas ...any) map[string]any { return map[string]any{"anyOf": schemas} }

func words[T ~string](values ...T) map[string]any { return map[string]any{"enum": values} }

func said(schema map[string]any, description string) map[string]any {
	described := map[string]any{"description": description}
	for name, value := range schema {
		described[name] = value
	}
	return described
}

// Schema is the JSON Schema (2020-12) of a catalogue, for editors. It knows
// every field; what fields say together is for the reader to judge.
func Schema() []byte {
	text := either(map[string]any{"type": "string"}, map[string]any{"type": "number"}, map[string]any{"type": "boolean"})
	truth := map[string]any{"type": "boolean"}
	whole := map[string]any{"type": "integer"}
	texts := either(text, listOf(text))
	pairs := named(text, ".")
	length := said(map[string]any{"type": "string", "pattern": `^([0-9.]+(ns|us|µs|ms|s|m|h))+$|^[0-9]+d$`}, "a duration such as 30s, 1h30m or 7d")
	age := either(length, words("never"))
	limits := said(map[string]any{"type": "string"}, "windows of calls such as 60/min,2/s, or unlimited")

	way := either(words("none", "bearer"), object(map[string]any{
		"query": text, "header": text, "bearer": text, "prefix": text, "env": text,
		"basic":  object(map[string]any{"user_env": text, "password_env": text}),
		"oauth2": object(map[string]any{"token_url": text, "client_id_env": text, "client_secret_env": text, "scopes": texts}),
	}))
	auth := said(either(way, listOf(way)), "how the key is sent")
	match := map[string]any{
		"status": said(texts, "400 or 4xx, one or a list"), "at": said(texts, "JSON pointers, or body for the start of the body as text"),
		"header": pairs, "equals": texts, "prefix": texts, "contains": texts,
	}
	rule := map[string]any{
		"class": words(wire.AnswerClasses()...),
		"code":  words("not_found", "not_entitled", "rejected"), "min_hold": length, "no_cache": truth, "hint": text,
	}
	for name, schema := range match {
		rule[name] = schema
	}
	paging := object(map[string]any{
		"kind": words(sheet.PagingKinds...), "param": text, "first": whole, "size": text, "each": whole, "items": text, "total": text, "next": text,
	})
	param := object(map[string]any{
		"type": words(sheet.ParamTypes...), "required": truth, "default": text, "wire": text, "pattern": text,
		"min": map[string]any{"type": "number"}, "max": map[string]any{"type": "number"}, "enum": texts, "expected": text,
		"at": text, "separator": text, "repeat": truth,
	})
	operation := object(map[string]any{
		"path": text, "query": pairs, "headers": pairs, "method": words("GET", "POST"), "reads_only": truth,
		"body": words(sheet.BodyJSON, sheet.BodyForm), "template": map[string]any{}, "timeout": length,
		"params": named(param, `^[A-Za-z0-9_.-]{1,64}$`), "any_of": texts, "exclusive": listOf(texts),
		"limits": limits, "group": text, "cost": map[string]any{"type": "integer", "minimum": 1},
		"auth": auth, "rights": texts, "format": words(sheet.Formats...), "columns": texts, "fresh": age, "stale": age, "paging": paging,
	})
	tier := object(map[string]any{"limits": limits, "forbids": texts})
	rates := either(words("off"), object(map[string]any{"limit": text, "remaining": text, "reset": text, "window": length}))
	provider := object(map[string]any{
		"base_url": said(map[string]any{"type": "string", "format": "uri"}, "http or https, perhaps with a path"), "env_prefix": text, "key_env": text,
		"auth": auth, "secrets": pairs, "key_params": texts, "query": pairs, "headers": pairs, "limits": limits, "groups": named(limits, sheet.NamePattern.String()), "rate_headers": rates,
		"quota":       said(map[string]any{"type": "string", "pattern": sheet.NamePattern.String()}, "a name that providers have in common whose calls count together"),
		"concurrency": map[string]any{"type": "integer", "minimum": 1},
		"tier":        text, "tiers": named(tier, sheet.NamePattern.String()), "bytes_per_month": text, "timeout": length, "fresh": age, "stale": age,
		"rights": texts, "notice": text, "error_text": texts, "own": listOf(object(match)), "errors": listOf(object(rule)),
		"get_paths": listOf(object(map[string]any{"prefix": text, "from_root": truth, "auth": auth})), "get_paging": paging,
		"operations": named(operation, sheet.NamePattern.String()),
	})
	schema := object(map[string]any{"providers": named(provider, sheet.NamePattern.String())})
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "fetchworker catalogue"
	content, _ := json.MarshalIndent(schema, "", "  ") // plain values: cannot fail
	return append(content, '\n')
}
