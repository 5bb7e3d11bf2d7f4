package fetchworker_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"fetchworker"
	"fetchworker/internal/cancel"
)

// object is a JSON object, written with its names sorted.
type object = map[string]any

const duration = "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"

// schemaOf is the JSON Schema of a Go type as its JSON is.
func schemaOf(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[fetchworker.Duration]():
		return object{"type": "string", "pattern": duration}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	case reflect.TypeFor[fetchworker.Lane]():
		return object{"type": "string", "enum": []string{"interactive", "batch"}}
	}
	switch t.Kind() { //nolint:exhaustive // the others are in no message
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Struct:
		s := object{"type": "object"}
		properties, required := object{}, []string{}
		for i := range t.NumField() {
			name, rest, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "-" || name == "" {
				continue
			}
			properties[name] = schemaOf(t.Field(i).Type)
			if !strings.Contains(rest, "omit") {
				required = append(required, name)
			}
		}
		if s["properties"] = properties; len(required) > 0 {
			s["required"] = required
		}
		return s
	default:
		return object{"type": "integer"}
	}
}

// schemas are those of the messages, by file.
func schemas(t *testing.T) map[string]object {
	t.Helper()
	named := func(title, description string, s object) object {
		s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
		s["title"], s["description"] = title, description
		return s
	}
	request := schemaOf(reflect.TypeFor[fetchworker.Request]())
	request["additionalProperties"] = false
	properties, _ := request["properties"].(object)
	properties["id"] = object{"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
	properties["params"] = object{"type": "object"}
	properties["reply_to"] = object{"type": "string", "pattern": `^fetch\.reply\.[a-z0-9_-]{1,32}\.[^*>\s]+$`, "maxLength": 256}
	request["not"] = object{"required": []string{"ttl", "deadline"}}

	problem := schemaOf(reflect.TypeFor[fetchworker.Problem]())
	var types []string
	for _, c := range constants(t, "words.go") {
		switch c.kind {
		case "Code":
			types = append(types, "urn:fetch:error:"+c.value)
		case "Reason":
			types = append(types, "urn:fetch:waiting:"+c.value)
		}
	}
	properties, _ = problem["properties"].(object)
	properties["type"] = object{"type": "string", "enum": types}

	order := schemaOf(reflect.TypeFor[cancel.Order]())
	order["additionalProperties"] = false
	properties, _ = order["properties"].(object)
	properties["ids"] = object{"type": "array", "items": object{"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}, "minItems": 1, "maxItems": 1000}

	event := schemaOf(reflect.TypeFor[fetchworker.Event]())
	properties, _ = event["properties"].(object)
	properties["specversion"], properties["datacontenttype"] = object{"const": "1.0"}, object{"const": "application/json"}
	properties["data"] = object{"type": "object"}

	return map[string]object{
		"request":   named("Request", "What an agent publishes.", request),
		"problem":   named("Problem", "The body of a failed or waiting answer, RFC 9457.", problem),
		"event":     named("Event", "Something that happened to a provider, a CloudEvent in structured mode.", event),
		"order":     named("Order", "What an agent asks to have cancelled.", order),
		"cancelled": named("Cancelled", "The reply to an order.", schemaOf(reflect.TypeFor[cancel.Reply]())),
		"catalogue": named("Catalogue", "What can be asked of a provider.", schemaOf(reflect.TypeFor[fetchworker.Catalogue]())),
	}
}

// asyncapi is the AsyncAPI 3 document of what an agent sends and receives.
func asyncapi() object {
	token := func(description string) object { return object{"description": description} }
	parameters := object{
		"provider": token("1 to 32 of a-z 0-9 _ -"), "operation": token("1 to 32 of a-z 0-9 _ -"), "agent": token("1 to 32 of a-z 0-9 _ -"),
		"lane": object{"enum": []string{"interactive", "batch"}}, "id": token("1 to 64 of A-Z a-z 0-9 _ -"),
		"kind": object{"enum": []string{"circuit", "budget", "throttle", "control", "review"}},
	}
	channels, operations := object{}, object{}
	add := func(name, address, action, summary string, message object) {
		used := object{}
		for parameter, of := range parameters {
			if strings.Contains(address, "{"+parameter+"}") {
				used[parameter] = of
			}
		}
		channels[name] = object{"address": address, "parameters": used, "messages": object{name: message}}
		operations[name] = object{"action": action, "summary": summary, "channel": object{"$ref": "#/channels/" + name}}
	}
	payload := func(schema string) object {
		return object{"contentType": "application/json", "payload": object{"$ref": "schemas/" + schema + ".json"}}
	}
	add("request", "fetch.request.{provider}.{lane}.{operation}.{agent}", "send", "Ask for something; the reply is JetStream's receipt", payload("request"))
	add("result", "fetch.result.{provider}.{operation}.{agent}.{id}", "receive", "Answers, live; headers say what they are, the body is the provider's or a problem",
		object{"payload": object{"oneOf": []object{{"description": "the provider's bytes"}, {"$ref": "schemas/problem.json"}}}})
	add("event", "fetch.event.{kind}.{provider}", "receive", "What happens to providers", payload("event"))
	add("cancel", "fetch.cancel.{provider}.{agent}", "send", "Cancel requests; from the reply on no call begins for them", payload("order"))
	operations["cancel"].(object)["reply"] = object{"messages": []object{{"$ref": "#/components/messages/cancelled"}}} //nolint:errcheck // it was made above
	add("catalog", "fetch.catalog.{provider}", "send", "Ask what can be asked", object{"payload": object{"description": "empty"}})
	operations["catalog"].(object)["reply"] = object{"messages": []object{{"$ref": "#/components/messages/catalogue"}}} //nolint:errcheck // it was made above
	return object{
		"asyncapi":   "3.0.0",
		"info":       object{"title": "fetchworker", "version": "1", "description": "What an agent sends and receives; docs/protocol.md tells it in words."},
		"channels":   channels,
		"operations": operations,
		"components": object{"messages": object{"cancelled": payload("cancelled"), "catalogue": payload("catalogue")}},
	}
}

// TestSchemasAreWhatTheTypesSay holds docs/schemas and docs/asyncapi.json
// equal to the types. FETCH_UPDATE=1 writes them.
func TestSchemasAreWhatTheTypesSay(t *testing.T) {
	files := map[string]object{"docs/asyncapi.json": asyncapi()}
	for name, s := range schemas(t) {
		files[filepath.Join("docs/schemas", name+".json")] = s
	}
	for file, want := range files {
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(want); err != nil {
			t.Fatal(err)
		}
		if os.Getenv("FETCH_UPDATE") != "" {
			if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, text.Bytes()) {
			t.Errorf("%s is not what the types say (FETCH_UPDATE=1 go test . writes it): %v", file, err)
		}
	}
}
