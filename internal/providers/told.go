package providers

import (
	"fetchworker"
	"fetchworker/internal/providers/sheet"
)

// Tell is what agents are told of a provider: its operations, each with the
// JSON Schema of its parameters. Nothing of it is secret.
func (s *Set) Tell(name string) (fetchworker.Catalogue, bool) {
	p, ok := s.providers[name]
	if !ok {
		return fetchworker.Catalogue{}, false
	}
	told := fetchworker.Catalogue{Provider: name, Configured: p.Configured(), Notice: p.Notice}
	for _, name := range p.Names() {
		told.Operations = append(told.Operations, operation(name, p.Operations[name]))
	}
	return told, true
}

func operation(name string, o *sheet.Operation) fetchworker.CatalogueOperation {
	return fetchworker.CatalogueOperation{
		Name: name, Path: o.Path, Rights: o.Rights, Format: string(o.Format),
		Fresh: fetchworker.Duration(max(o.Fresh, 0)), Stale: fetchworker.Duration(max(o.Stale, 0)),
		Pages: o.Paging != nil, Params: o.Schema(),
	}
}
