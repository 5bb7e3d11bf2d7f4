package classify

import (
	"bytes"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"fetchworker/internal/providers/scan"
	"fetchworker/internal/providers/sheet"
)

// unreadable says why the body of a success is not an answer; "" if it is.
func unreadable(in Input, isJSON bool) string {
	if len(scan.TrimSpace(in.Body)) == 0 {
		return "empty"
	}
	switch in.Format {
	case sheet.FormatJSON:
		if !isDocument(in.Body, isJSON) {
			return "not a JSON object or array"
		}
	case sheet.FormatValue:
		if !isJSON {
			return "not JSON"
		}
	case sheet.FormatNDJSON:
		return notLines(in.Body)
	case sheet.FormatCSV:
		return notTable(in, isJSON)
	case sheet.FormatText:
		if !utf8.Valid(in.Body) || bytes.IndexByte(in.Body, 0) >= 0 {
			return "not a text in UTF-8"
		}
	case sheet.FormatImage:
		if !isImage(mediaOf(in), in.Body) {
			return "not an image"
		}
	case sheet.FormatBinary:
	case sheet.FormatAny:
		return notAny(mediaOf(in), in.Body, isJSON)
	}
	return ""
}

// mediaOf is the media type of an answer, "" for one that cannot be parsed.
func mediaOf(in Input) string {
	media, _, _ := mime.ParseMediaType(in.Header.Get("Content-Type"))
	return media
}

// isDocument reports whether a body is one JSON object or array.
func isDocument(body []byte, isJSON bool) bool {
	start := scan.TrimSpace(body)
	return isJSON && (start[0] == '{' || start[0] == '[')
}

// notAny says why a body is nothing that an API sends.
func notAny(media string, body []byte, isJSON bool) string {
	start := scan.TrimSpace(body)[0]
	switch {
	case isDocument(body, isJSON), isImage(media, body) && !isJSON:
		return ""
	case start == '{' || start == '[': // broken JSON, whatever its type says
	case isOtherMedia(media), media == "text/plain" && isTable(body):
		return ""
	}
	return "not a JSON object or array"
}

// isOtherMedia reports whether a Content-Type promises something else than
// JSON that an API may well send.
func isOtherMedia(media string) bool {
	switch media {
	case "text/csv", "application/csv", "text/tab-separated-values", "text/xml", "application/xml", "application/octet-stream":
		return true
	}
	return strings.HasSuffix(media, "+xml")
}

// isImage reports whether a body is an image by its first bytes, or, for a
// kind whose bytes tell nothing, by its type.
func isImage(media string, body []byte) bool {
	found := http.DetectContentType(body)
	if strings.HasPrefix(found, "image/") {
		return true
	}
	return strings.HasPrefix(media, "image/") && (found == "application/octet-stream" || media == "image/svg+xml" && bytes.Contains(body[:min(len(body), maxRuleText)], []byte("<svg")))
}

// notLines says why a body is not a JSON value a line.
func notLines(body []byte) string {
	for line := range bytes.Lines(body) {
		if line = bytes.TrimSpace(line); len(line) > 0 && !scan.Valid(line) {
			return "not a JSON value a line"
		}
	}
	return ""
}

// notTable says why a body is not the table that was asked for.
func notTable(in Input, isJSON bool) string {
	start := scan.TrimSpace(in.Body)[0]
	switch {
	case isDocument(in.Body, isJSON):
		return "JSON where a table was expected"
	case start == '{' || start == '[' || start == '<':
		return "not a table"
	}
	if len(in.Columns) == 0 {
		if !isTable(in.Body) {
			return "not a table"
		}
		return ""
	}
	header, _, _ := strings.Cut(bodyText(in.Body), "\n")
	cells := cellsOf(header)
	for _, name := range in.Columns {
		if !slices.Contains(cells, name) {
			return "not a table with the column " + name
		}
	}
	return ""
}

// cellsOf are the cells of a header row, by the separator that it has.
func cellsOf(row string) []string {
	cells := strings.FieldsFunc(strings.TrimPrefix(row, "\uFEFF"), func(r rune) bool { return strings.ContainsRune(separators, r) })
	for i, cell := range cells {
		cells[i] = strings.Trim(strings.TrimSpace(cell), `"`)
	}
	return cells
}

const separators = ",;\t|"

// isTable reports whether a text is lines of separated values: an error in
// plain words has no second line, no separator in its first, or goes on after
// a comma with a space, as people write.
func isTable(body []byte) bool {
	header, rows, more := strings.Cut(bodyText(body), "\n")
	if !strings.ContainsAny(header, separators) || !more && !strings.Contains(header, `","`) {
		return false
	}
	if more && rows == "" {
		return strings.Contains(header, `","`)
	}
	for _, separator := range separators {
		if spaced := string(separator) + " "; separator != '\t' && strings.Contains(header, spaced) && !strings.Contains(header, `"`) {
			return false
		}
	}
	return true
}
