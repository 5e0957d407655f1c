package api

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	fastjson "github.com/goccy/go-json"
)

// jsonFormat is huma's JSON by goccy: the same bytes as encoding/json, in half the
// time.
var jsonFormat = huma.Format{
	Marshal:   writeJSON,
	Unmarshal: fastjson.Unmarshal,
}

func writeJSON(w io.Writer, v any) error {
	e := fastjson.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

var jsonContent = []string{"application/json"}

// answerJSON writes the answer of a route whose answers huma does not write.
func answerJSON(w http.ResponseWriter, status int, v any) error {
	w.Header()["Content-Type"] = jsonContent
	w.WriteHeader(status)
	return writeJSON(w, v)
}

// maxDepth bounds the nesting of a body: no request has more than four levels.
const maxDepth = 16

// checkJSON reports whether b is one JSON value (RFC 8259) that is not nested too
// deeply for a recursive decoder.
func checkJSON(b []byte) bool { return depthOf(b) <= maxDepth && json.Valid(b) }

// depthOf is the deepest nesting of objects and arrays.
func depthOf(b []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}
