package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// route is a route as the OpenAPI document shows it. Path parameters are
// documented from the path; ids of one letter mean the same everywhere.
type route struct {
	method  string
	path    string
	id      string // operation id
	tag     string
	summary string
	about   string
	status  int      // of success; 0: 200
	query   []*param // beside at_least on reads
	open    bool     // needs no key
	raw     bool     // its body is bytes, and its handler's to read
	plain   bool     // changes nothing in the log: a repeat is known by what it asks for
	also    []int    // statuses beside those every route has
}

type param = huma.Param

var pathParams = map[string]string{
	"t": "The tenant's id, ten_...", "p": "The project's id, prj_...", "h": "The host's id, host_...", "a": "The allocation's id, alloc_...",
	"s": "The id: slot_... or sku_...", "k": "The API key's id, key_...", "u": "The user's id, usr_...", "key": "The policy's key: quota.gpus",
	"serial": "The device's serial number, percent-encoded.",
	"d":      "The wipe duty's id, duty_...", "i": "The image's id, img_...", "b": "The upload's id, upl_...",
}

func queryParam(name, about string, schema *huma.Schema) *param {
	return &param{Name: name, In: "query", Description: about, Schema: schema}
}

func floatOf(n int) *float64 { f := float64(n); return &f }

var (
	limitParam = queryParam("limit", "At most so many items.", &huma.Schema{Type: "integer", Minimum: floatOf(1), Maximum: floatOf(maxLimit), Default: defaultLimit})
	afterParam = queryParam("cursor", "Where to go on: next_cursor of the page before.", &huma.Schema{Type: "string"})
	orderParam = queryParam("order", "asc: oldest first; desc: newest first.", &huma.Schema{Type: "string", Enum: []any{"asc", "desc"}, Default: "asc"})
	nameParam  = queryParam("name", "Only what has this name.", &huma.Schema{Type: "string"})
	paging     = []*param{limitParam, afterParam, orderParam}
	naming     = append([]*param{nameParam}, paging...)
	atLeast    = queryParam("at_least", "Wait until the read model has this commit: the Log-Sequence of a command's answer, to read your own writes. 503 read_model.behind if it does not within the request's deadline.", &huma.Schema{Type: "integer", Minimum: floatOf(0)})
)

// input and output are what huma reads and writes; everything else of a request is
// in its call.
type (
	input[B any]  struct{ Body B }
	output[R any] struct{ Body R }
	noInput       struct{}
)

// command registers a route with a body.
func command[B, R any](s *Server, r route, h func(c *call, b *B) (R, *domain.Error)) {
	op := s.operation(r, true)
	huma.Register(s.api, op, func(ctx context.Context, in *input[B]) (*output[R], error) {
		c := callOf(ctx)
		c.rest()
		res, err := h(c, &in.Body)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &output[R]{res}, nil
	})
	s.routes = append(s.routes, r)
}

// action registers a command's route that has no body.
func action[R any](s *Server, r route, h func(c *call) (R, *domain.Error)) {
	op := s.operation(r, true)
	huma.Register(s.api, op, func(ctx context.Context, _ *noInput) (*output[R], error) {
		c := callOf(ctx)
		if len(c.body) > 0 && strings.TrimSpace(string(c.body)) != "{}" {
			return nil, c.fail(domain.Errorf(domain.Invalid, "request.unexpected_body", "this request has no body"))
		}
		c.rest()
		res, err := h(c)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &output[R]{res}, nil
	})
	s.routes = append(s.routes, r)
}

// read registers a route that changes nothing.
func read[R any](s *Server, r route, h func(c *call) (R, *domain.Error)) {
	if r.method == "" {
		r.method = http.MethodGet
	}
	op := s.operation(r, false)
	huma.Register(s.api, op, func(ctx context.Context, _ *noInput) (*output[R], error) {
		c := callOf(ctx)
		c.rest()
		res, err := h(c)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &output[R]{res}, nil
	})
	s.routes = append(s.routes, r)
}

var bearer = []map[string][]string{{"apiKey": {}}}

func (s *Server) operation(r route, changes bool) huma.Operation {
	op := huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Tags: []string{r.tag}, Summary: r.summary, Description: r.about,
		DefaultStatus: r.status, MaxBodyBytes: maxBodyBytes, BodyReadTimeout: -1, Parameters: slices.Clone(r.query),
	}
	for _, part := range strings.Split(r.path, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			op.Parameters = append(op.Parameters, &param{Name: name, In: "path", Required: true, Description: pathParams[name], Schema: &huma.Schema{Type: "string"}})
		}
	}
	problems := []int{422, 429, 500, 503}
	if !r.open {
		op.Security = bearer
		problems = append(problems, 401, 403, 404)
	}
	success := strconv.Itoa(cmpOr(r.status, http.StatusOK))
	op.Responses = map[string]*huma.Response{success: {Description: http.StatusText(cmpOr(r.status, http.StatusOK)), Headers: map[string]*huma.Header{
		"Log-Sequence": {Description: "The commit that this answer reflects.", Schema: &huma.Schema{Type: "integer"}},
		"X-Request-Id": {Description: "The request's id, also in every problem.", Schema: &huma.Schema{Type: "string"}},
	}}}
	switch {
	case changes && r.plain:
		problems = append(problems, 400, 409, 413, 415)
	case changes:
		op.Parameters = append(op.Parameters, commandHeaders...)
		problems = append(problems, 400, 402, 409, 413, 415)
		op.Responses[success].Headers["Command-Id"] = &huma.Header{Description: "The command's id. If an answer was lost, repeat the request with it: within 15 minutes it gets the first answer.", Schema: &huma.Schema{Type: "string"}}
	case !r.open && !r.raw:
		op.Parameters = append(op.Parameters, atLeast)
	}
	for _, status := range append(problems, r.also...) {
		op.Responses[strconv.Itoa(status)] = problemResponse(status)
	}
	return op
}

var commandHeaders = []*param{
	{Name: "Idempotency-Key", In: "header", Description: "Yours, 1 to 255 printable ASCII characters. The same key with the same request within 24 hours gets the first answer; with another request it is 409 idempotency.conflict.", Schema: &huma.Schema{Type: "string", MinLength: intOf(1), MaxLength: intOf(255)}},
	{Name: "Command-Id", In: "header", Description: "A command id of yours: cmd_ and a UUIDv7 in Crockford's base32. Made for you if you leave it out.", Schema: &huma.Schema{Type: "string"}},
}

func intOf(n int) *int { return &n }

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// problemResponse refers to the one schema of problems, with an example of each
// status.
func problemResponse(status int) *huma.Response {
	ex := problemExamples[status]
	p := newProblem(status, ex[0], ex[1], "req_0000019ab2c4d8e07f3a5b6c")
	p.Retryable = status == 429 || status == 503
	return &huma.Response{Description: http.StatusText(status), Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}, Example: p},
	}}
}

var problemExamples = map[int][2]string{
	400: {"request.malformed", "the body is not JSON, or is nested too deeply"},
	401: {"auth.invalid_key", "the API key is missing, unknown, expired or revoked"},
	402: {"funds.insufficient", "a launch puts one hour's price aside: 2490000 micros of USD, 0 are available; add credit or launch less"},
	403: {"auth.role_too_low", "this needs the role member in the project"},
	404: {"project.not_found", "no such project"},
	406: {"request.not_acceptable", "ask for application/json or text/event-stream"},
	409: {"capacity.exhausted", "no room for 1 x gpu-1x now: see GET /v1/offers"},
	413: {"request.too_large", "a body has at most 262144 bytes"},
	415: {"request.media_type", "send application/json"},
	422: {"request.invalid", "the request does not fit its schema: see errors"},
	429: {"queue.lane_full", "too many requests at once: try again in a second"},
	500: {"internal", "internal error"},
	503: {"queue.full", "the site is busy: try again in a second"},
}

// pathID reads an id of the path. What is not even an id is not there.
func pathID[T interface{ UnmarshalText([]byte) error }](c *call, name, what string, id T) *domain.Error {
	s := c.echo.Param(name)
	if s == "" || id.UnmarshalText([]byte(s)) != nil {
		return notFound(what)
	}
	return nil
}
