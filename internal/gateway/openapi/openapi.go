// Package openapi describes what a gateway serves to generators of clients.
package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"fetchworker"
)

// object is a JSON object, written with its names sorted.
type object = map[string]any

// Document is an OpenAPI 3.1 document of all that a gateway serves, made of the
// providers' own sheets: each operation is a path, so that a generator makes a
// typed call of it.
func Document(all []fetchworker.Catalogue, version string, tokens bool) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(describe(all, version, tokens)); err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	return b.Bytes(), nil
}

func ref(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }

// describe is the document.
func describe(all []fetchworker.Catalogue, version string, tokens bool) object {
	paths, tags := fixedPaths(), []object{}
	for _, p := range all {
		if len(p.Operations) == 0 {
			continue
		}
		tag := object{"name": p.Provider}
		if p.Notice != "" {
			tag["description"] = p.Notice
		}
		tags = append(tags, tag)
		for _, o := range p.Operations {
			paths["/v1/"+p.Provider+"/"+o.Name] = described(p, o)
		}
	}
	document := object{
		"openapi": "3.1.0",
		"info":    object{"title": "fetchworker", "version": version, "summary": "Data APIs behind one queue, inside every quota", "description": "202 says that a request goes on: its answer will be at Location, and Retry-After says when it makes sense to look."},
		"paths":   paths, "tags": append(tags, object{"name": "requests"}, object{"name": "catalogue"}),
		"components": components(tokens),
	}
	if tokens {
		document["security"] = []object{{"bearer": []string{}}}
	}
	return document
}

// described is one operation, asked in both ways.
func described(p fetchworker.Catalogue, o fetchworker.CatalogueOperation) object {
	summary := p.Provider + " " + o.Name
	if o.Path != "" {
		summary += ": " + o.Path
	}
	common := []object{ref("parameters", "IdempotencyKey"), ref("parameters", "Prefer"), ref("parameters", "Lane"), ref("parameters", "Agent")}
	one := func(method, id string, more object) object {
		doc := object{
			"tags": []string{p.Provider}, "operationId": id + "_" + p.Provider + "_" + o.Name, "summary": summary,
			"responses": responses(o.Format),
		}
		maps.Copy(doc, more)
		return object{method: doc}
	}
	params := oneType(o.Params)
	if len(params) == 0 {
		params = json.RawMessage(`{"type":"object"}`)
	}
	body := object{
		"type": "object", "additionalProperties": false,
		"properties": object{
			"id": object{"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}, "params": params,
			"ttl": ref("schemas", "Duration"), "deadline": object{"type": "string", "format": "date-time"},
			"max_age": ref("schemas", "Duration"), "max_stale": ref("schemas", "Duration"),
			"use": object{"type": "array", "items": object{"type": "string", "pattern": "^[a-z0-9_-]{1,32}$"}},
		},
	}
	var needs struct {
		Required []string `json:"required"`
	}
	if json.Unmarshal(params, &needs) == nil && len(needs.Required) > 0 {
		body["required"] = []string{"params"}
	}
	item := one("post", "ask", object{
		"parameters": common, "requestBody": object{"required": true, "content": object{"application/json": object{"schema": body}}},
	})
	maps.Copy(item, one("get", "get", object{"parameters": append(query(params), common...)}))
	return item
}

// oneType is a schema with one type for each value. A number may be sent as its
// text as well, and a generator makes of two types either nothing or something
// that nobody can fill in: it is described as the number that it is, and a list as
// a list.
func oneType(schema json.RawMessage) json.RawMessage {
	var tree any
	d := json.NewDecoder(bytes.NewReader(schema))
	d.UseNumber()
	if d.Decode(&tree) != nil {
		return schema
	}
	text, err := json.Marshal(first(tree))
	if err != nil { // it was JSON
		return schema
	}
	return text
}

func first(tree any) any {
	switch v := tree.(type) {
	case []any:
		for i := range v {
			v[i] = first(v[i])
		}
	case object:
		for name := range v {
			v[name] = first(v[name])
		}
		if one := list(v["anyOf"]); one != nil {
			delete(v, "anyOf")
			delete(v, "default") // it is the text of a list
			for name := range one {
				v[name] = one[name]
			}
		}
		types, several := v["type"].([]any)
		if !several || len(types) == 0 {
			break
		}
		v["type"] = types[0]
		given, is := v["default"].(string)
		if name, _ := types[0].(string); is && name != "string" {
			v["default"] = json.RawMessage(given) // the text of a number, or true
			if !json.Valid([]byte(given)) {
				delete(v, "default")
			}
		}
	}
	return tree
}

// list is the list among the ways to write one: its items with commas between
// them, or a list. Nil where it is about something else.
func list(ways any) object {
	all, _ := ways.([]any)
	for _, way := range all {
		if o, ok := way.(object); ok && o["type"] == "array" {
			return o
		}
	}
	return nil
}

// query are the parameters of an operation as those of an address.
func query(params json.RawMessage) []object {
	var s struct {
		Properties map[string]json.RawMessage `json:"properties"`
		Required   []string                   `json:"required"`
	}
	if json.Unmarshal(params, &s) != nil {
		return nil
	}
	var all []object
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		all = append(all, object{"name": name, "in": "query", "required": slices.Contains(s.Required, name), "schema": s.Properties[name]})
	}
	return all
}

// formats are the media types of what sheets call a body.
var formats = map[string]string{"json": "application/json", "csv": "text/csv", "text": "text/plain", "ndjson": "application/x-ndjson", "image": "image/*", "binary": "application/octet-stream"}

func responses(format string) object {
	media := formats[format]
	if media == "" {
		media = "*/*"
	}
	schema := object{}
	if media != "application/json" {
		schema["type"] = "string"
	}
	content := object{media: object{"schema": schema}}
	if media == "*/*" { // most are, and a generator takes what it is not told of for a problem
		content["application/json"] = object{"schema": object{}}
	}
	return object{
		"200": object{
			"description": "The provider's bytes. Fetch-Status says whether they are fresh (ok) or old (stale).",
			"content":     content,
			"headers": object{
				"Fetch-Request-Id": ref("headers", "Text"), "Fetch-Status": ref("headers", "Text"), "Fetch-Source": ref("headers", "Text"),
				"Fetch-Fetched-At": ref("headers", "Text"), "Fetch-Next": ref("headers", "Text"), "ETag": ref("headers", "Text"), "Age": ref("headers", "Seconds"),
			},
		},
		"202": ref("responses", "Accepted"), "default": ref("responses", "Problem"),
	}
}

// fixedPaths are those that every gateway has.
func fixedPaths() object {
	text := func(name string) object {
		return object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}}
	}
	told := func(description string, schema object) object {
		return object{"200": object{"description": description, "content": object{"application/json": object{"schema": schema}}}, "default": ref("responses", "Problem")}
	}
	stored := responses("")
	stored["304"] = object{"description": "The client has it already."}
	agent := ref("parameters", "Agent")
	return object{
		"/v1/requests/{provider}/{operation}/{id}": object{
			"parameters": []object{text("provider"), text("operation"), text("id"), agent},
			"get":        object{"tags": []string{"requests"}, "operationId": "answer", "summary": "The answer of a request, by whatever way it was asked", "parameters": []object{ref("parameters", "Prefer")}, "responses": stored},
			"delete": object{"tags": []string{"requests"}, "operationId": "cancel", "summary": "Cancel a request", "responses": told("What became of it.", object{
				"type": "object", "required": []string{"cancelled", "final"}, "properties": object{"cancelled": object{"type": "integer"}, "final": object{"type": "integer"}},
			})},
		},
		"/v1/answers": object{"get": object{
			"tags": []string{"requests"}, "operationId": "answers", "summary": "Your answers as they come: server-sent events",
			"parameters": []object{agent, {"name": "Last-Event-ID", "in": "header", "description": "go on after this event", "schema": object{"type": "string"}}},
			"responses":  object{"200": object{"description": "Events until the client has enough.", "content": object{"text/event-stream": object{"schema": object{"type": "string"}}}}, "default": ref("responses", "Problem")},
		}},
		"/v1/providers": object{"get": object{"tags": []string{"catalogue"}, "operationId": "providers", "summary": "What can be asked", "parameters": []object{agent}, "responses": told("Every provider with its operations.", object{
			"type": "object", "properties": object{"providers": object{"type": "array", "items": object{"type": "object"}}},
		})}},
		"/v1/limits": object{"get": object{"tags": []string{"catalogue"}, "operationId": "limits", "summary": "What is left, and when more comes", "parameters": []object{agent}, "responses": told("How every provider stands.", object{
			"type": "object", "properties": object{"providers": object{"type": "array", "items": object{"type": "object"}}},
		})}},
	}
}

// components are what paths share.
func components(tokens bool) object {
	header := func(name, description string, schema object) object {
		return object{"name": name, "in": "header", "required": false, "description": description, "schema": schema}
	}
	problem := func(description string, headers object) object {
		r := object{"description": description, "content": object{fetchworker.ProblemType: object{"schema": ref("schemas", "Problem")}}}
		if headers != nil {
			r["headers"] = headers
		}
		return r
	}
	text := object{"type": "string"}
	c := object{
		"parameters": object{
			"IdempotencyKey": header("Idempotency-Key", "The request's id: asked again under it, it is the same request and has the same answer.", object{"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}),
			"Prefer":         header("Prefer", "wait=20: seconds to wait for the final answer, at most 120; respond-async: none.", text),
			"Lane":           header("Fetch-Lane", "batch for what can wait.", object{"type": "string", "enum": []string{"interactive", "batch"}}),
			"Agent":          header("Fetch-Agent", "Who asks, where there are no tokens.", object{"type": "string", "pattern": "^[a-z0-9_-]{1,32}$"}),
		},
		"headers": object{"Text": object{"schema": text}, "Seconds": object{"schema": object{"type": "integer"}}},
		"schemas": object{
			"Duration": object{"type": "string", "description": "90s, 10m, 1h30m", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`},
			"Problem": object{
				"type": "object", "description": "RFC 9457", "required": []string{"type", "title", "status"},
				"properties": object{
					"type": text, "title": text, "status": object{"type": "integer"}, "detail": text, "instance": text,
					"provider": text, "operation": text, "retry_at": object{"type": "string", "format": "date-time"},
				},
			},
		},
		"responses": object{
			"Accepted": problem("It goes on: why it waits, and until when.", object{"Location": ref("headers", "Text"), "Retry-After": ref("headers", "Seconds")}),
			"Problem":  problem("Why there is no answer.", nil),
		},
	}
	if tokens {
		c["securitySchemes"] = object{"bearer": object{"type": "http", "scheme": "bearer"}}
	}
	return c
}
