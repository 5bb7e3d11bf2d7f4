package sheet

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Content is what a POST sends: its parameters placed in its template.
func (op *Operation) Content(values map[string]string) (body []byte, contentType string, err error) {
	if op.Body == BodyForm {
		form := url.Values{}
		if op.Template != "" {
			var fixed map[string]string
			if err := json.Unmarshal([]byte(op.Template), &fixed); err != nil {
				return nil, "", errors.New("expected a template of texts, as a form has")
			}
			for name, value := range fixed {
				form.Set(name, value)
			}
		}
		for i := range op.Params {
			param := &op.Params[i]
			if value, ok := values[param.Name]; ok && param.At != "" {
				form[strings.TrimPrefix(param.At, "/")] = param.Sent(value)
			}
		}
		return []byte(form.Encode()), "application/x-www-form-urlencoded", nil
	}
	var doc any = map[string]any{}
	if op.Template != "" {
		dec := json.NewDecoder(strings.NewReader(op.Template))
		dec.UseNumber()
		if err := dec.Decode(&doc); err != nil {
			return nil, "", errors.New("expected a template in JSON")
		}
	}
	for i := range op.Params {
		param := &op.Params[i]
		value, ok := values[param.Name]
		if !ok || param.At == "" {
			continue
		}
		if doc, ok = place(doc, strings.Split(param.At, "/")[1:], param.typed(value)); !ok {
			return nil, "", errors.New("expected a place for " + param.Name + " in the template, where objects and arrays are")
		}
	}
	body, err = json.Marshal(doc) // names in order: equal requests are equal bytes
	return body, "application/json", err
}

// typed is a parameter as JSON has it.
func (p *Param) typed(value string) any {
	switch p.Type {
	case TypeInt, TypeNumber:
		return json.Number(value)
	case TypeBool:
		return value == "true"
	case TypeCSV:
		return strings.Split(value, ",")
	case TypeString, TypeEnum, TypeDate, TypeDateOrMS, TypeTime:
	}
	return value
}

// Sent are the texts of a parameter in a query or a form: one, or one an item.
func (p *Param) Sent(value string) []string {
	switch {
	case p.Repeat:
		return strings.Split(value, ",")
	case p.Separator != "":
		return []string{strings.ReplaceAll(value, ",", p.Separator)}
	}
	return []string{value}
}

// place puts a value into a document, and makes the objects on the way.
func place(doc any, path []string, value any) (any, bool) {
	if len(path) == 0 {
		return value, true
	}
	name := strings.ReplaceAll(strings.ReplaceAll(path[0], "~1", "/"), "~0", "~")
	switch at := doc.(type) {
	case nil:
		return place(map[string]any{}, path, value)
	case map[string]any:
		inner, ok := place(at[name], path[1:], value)
		if ok {
			at[name] = inner
		}
		return at, ok
	case []any:
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(at) {
			return doc, false
		}
		inner, ok := place(at[i], path[1:], value)
		if ok {
			at[i] = inner
		}
		return at, ok
	}
	return doc, false
}

// checkBody notes what a POST cannot send.
func (op *Operation) checkBody(c check) {
	if op.Method != http.MethodPost {
		if op.Method != "" && op.Method != http.MethodGet {
			c.at("method").wrong("%q: expected GET or POST", op.Method)
		}
		c.only("reads_only", op.ReadsOnly, "method POST")
		c.only("body", op.Body != "", "method POST")
		c.only("template", op.Template != "", "method POST")
		for i := range op.Params {
			c.at("params").at(op.Params[i].Name).only("at", op.Params[i].At != "", "an operation of method POST")
		}
		return
	}
	if !op.ReadsOnly {
		c.at("method").wrong("POST: expected reads_only: true beside it, which says that the call changes nothing and can be made again")
	}
	if op.Body != BodyJSON && op.Body != BodyForm {
		c.at("body").wrong("%q: expected json or form", op.Body)
		return
	}
	values := map[string]string{}
	for i := range op.Params {
		param := &op.Params[i]
		if param.At == "" {
			continue
		}
		at := c.at("params").at(param.Name).at("at")
		switch {
		case !isPointer(param.At):
			at.wrong("%q: expected a JSON pointer such as /variables/symbol", param.At)
			return
		case op.Body == BodyForm && strings.Count(param.At, "/") != 1:
			at.wrong("%q: expected the name of a field, such as /symbol", param.At)
		case op.InPath(param.Name):
			at.wrong("expected only where the parameter is not a part of the path")
		case slices.ContainsFunc(op.Params[:i], func(other Param) bool { return other.At == param.At }):
			at.wrong("another parameter has its place")
		}
		values[param.Name] = "1"
	}
	if op.Template != "" && !json.Valid([]byte(op.Template)) {
		c.at("template").wrong("expected JSON, or fields")
		return
	}
	if body, _, err := op.Content(values); err != nil {
		c.at("template").wrong("%v", err)
	} else if op.Body == BodyJSON && !bytes.HasPrefix(body, []byte("{")) && !bytes.HasPrefix(body, []byte("[")) {
		c.at("template").wrong("expected an object or an array")
	}
}
