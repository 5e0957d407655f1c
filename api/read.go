package api

import (
	"context"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Waiter waits for the read model to have a commit. projections.Projector implements
// it.
type Waiter interface {
	WaitFor(ctx context.Context, n uint64) error
}

// Progress is how far the read models are. projections.Projector implements it.
type Progress interface {
	Waiter
	// CaughtUp is for what was not found in commit n: it waits for what the log has now,
	// and returns the newest commit.
	CaughtUp(ctx context.Context, n uint64) (newest uint64, err error)
}

// The bounds of a list.
const (
	defaultLimit = 50
	maxLimit     = 500
)

var stringSchema = &huma.Schema{Type: "string"}

// List is a page of things. Without next_cursor it is the last one.
type List[T any] struct {
	Items      []T    `json:"items" nullable:"false"`
	NextCursor string `json:"next_cursor,omitempty" doc:"Where the next page begins; left out on the last one"`
}

// scope is what the read model needs to know of the caller; what it may see is
// looked up in the snapshot that the answer comes from.
func (c *call) scope() projections.Scope {
	m := c.caller.Member
	return projections.Scope{Platform: m.Platform != 0, User: m.ID, Tenant: m.Tenant}
}

// catchUp waits until the read model has what the request asks for.
func (c *call) catchUp() *domain.Error {
	least, err := c.atLeast()
	if err != nil || least == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx(), c.s.o.Deadline) // a stream has no deadline of its own
	defer cancel()
	if werr := c.s.o.Wait.WaitFor(ctx, least); werr != nil {
		return domain.AsError(werr)
	}
	return nil
}

// found reads from the read models, and does not take their word for it that something is
// not there, or not the caller's, while they are behind: it may be so since a moment ago.
// They are asked again when they have what was decided before the question; if that
// takes too long the answer is that they are behind.
func found[R any](c *call, get func() (R, uint64, error)) (R, uint64, *domain.Error) {
	r, n, err := get()
	if err == nil {
		return r, n, nil
	}
	refused := domain.AsError(err)
	if refused.Kind != domain.NotFound && refused.Kind != domain.Forbidden {
		return r, n, refused
	}
	ctx, cancel := context.WithTimeout(c.ctx(), c.s.o.Patience)
	defer cancel()
	newest, err := c.s.o.Wait.CaughtUp(ctx, n)
	if err != nil {
		return r, n, domain.AsError(err)
	}
	if newest == n {
		return r, n, refused
	}
	r, n, err = get()
	switch {
	case err == nil:
		return r, n, nil
	case n < newest: // Postgres came back as it was before
		return r, n, errBehind(n)
	}
	return r, n, domain.AsError(err)
}

// one reads one thing.
func one[R, T any](c *call, get func() (R, uint64, error), show func(*R) T) (T, *domain.Error) {
	var none T
	if err := c.catchUp(); err != nil {
		return none, err
	}
	r, n, err := found(c, get)
	if err != nil {
		return none, err
	}
	c.sequence(n)
	return show(&r), nil
}

// list reads one page.
func list[R, T any](c *call, get func(o projections.ListOptions) (projections.Page[R], error), show func(*R) T) (*List[T], *domain.Error) {
	o, err := c.listOptions()
	if err != nil {
		return nil, err
	}
	if err := c.catchUp(); err != nil {
		return nil, err
	}
	page, n, err := found(c, func() (projections.Page[R], uint64, error) {
		page, err := get(o)
		return page, page.N, err
	})
	if err != nil {
		return nil, err
	}
	c.sequence(n)
	out := &List[T]{Items: make([]T, len(page.Items)), NextCursor: page.NextCursor}
	for i := range page.Items {
		out.Items[i] = show(&page.Items[i])
	}
	return out, nil
}

// all reads a list that has no pages.
func all[R, T any](c *call, get func() ([]R, uint64, error), show func(*R) T) (*List[T], *domain.Error) {
	return one(c, get, func(rows *[]R) *List[T] {
		out := &List[T]{Items: make([]T, len(*rows))}
		for i := range *rows {
			out.Items[i] = show(&(*rows)[i])
		}
		return out
	})
}

func (c *call) listOptions() (projections.ListOptions, *domain.Error) {
	limit, err := limitOf(c.echo.QueryParam("limit"))
	if err != nil {
		return projections.ListOptions{}, err
	}
	o := projections.ListOptions{Limit: limit, Cursor: c.echo.QueryParam("cursor"), Name: c.echo.QueryParam("name")}
	switch c.echo.QueryParam("order") {
	case "", "asc":
	case "desc":
		o.Descending = true
	default:
		return o, domain.Errorf(domain.Invalid, "request.invalid", "order: want asc or desc")
	}
	return o, nil
}

// query asks the world as the caller. The answer reflects everything decided so
// far, so at_least is met unless it lies in the future.
func (c *call) query(f func(w *domain.World, at domain.Time) *domain.Error) *domain.Error {
	least, err := c.atLeast()
	if err != nil {
		return err
	}
	if least > 0 && c.s.o.Folded != nil {
		if werr := c.s.o.Folded.WaitFor(c.ctx(), least); werr != nil {
			return domain.AsError(werr)
		}
	}
	var n uint64
	if n, err = c.ask(c.actor(), f); err != nil {
		return err
	}
	if n < least {
		return errBehind(n)
	}
	c.sequence(n)
	return nil
}

// now is for what the log does not have: the answer is of this moment, so it
// reflects everything decided so far.
func (c *call) now() *domain.Error {
	return c.query(func(*domain.World, domain.Time) *domain.Error { return nil })
}

func (c *call) queryAs(actor domain.Actor, f func(w *domain.World, at domain.Time) *domain.Error) *domain.Error {
	n, err := c.ask(actor, f)
	if err == nil {
		c.sequence(n)
	}
	return err
}

func (c *call) ask(actor domain.Actor, f func(w *domain.World, at domain.Time) *domain.Error) (uint64, *domain.Error) {
	var refused *domain.Error
	n, err := c.s.o.Decider.Query(c.ctx(), actor, func(w *domain.World, at domain.Time) { refused = f(w, at) })
	if err != nil {
		return 0, err
	}
	return n, refused
}

func errBehind(n uint64) *domain.Error {
	return domain.Errorf(domain.Unavailable, "read_model.behind", "the read model has commit %d, not yet the one asked for: try again", n)
}

// atLeast is the commit that the answer has to reflect.
func (c *call) atLeast() (uint64, *domain.Error) {
	s := c.echo.QueryParam("at_least")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, domain.Errorf(domain.Invalid, "request.invalid", "at_least: want a number: the Log-Sequence of an answer")
	}
	return n, nil
}

// maxWords bounds what a filter takes of several words.
const maxWords = 16

// words reads a query parameter of words, separated by commas.
func (c *call) words(name string) (out []string, _ *domain.Error) {
	for _, w := range strings.Split(c.echo.QueryParam(name), ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	if len(out) > maxWords {
		return nil, domain.Errorf(domain.Invalid, "request.invalid", "%s: at most %d", name, maxWords)
	}
	return out, nil
}

// flag reads a query parameter that is true or false.
func (c *call) flag(name string) (bool, *domain.Error) {
	switch c.echo.QueryParam(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, domain.Errorf(domain.Invalid, "request.invalid", "%s: want true or false", name)
}

func limitOf(s string) (int, *domain.Error) {
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, domain.Errorf(domain.Invalid, "request.invalid", "limit: want 1 to %d", maxLimit)
	}
	return n, nil
}

func intParam(c *call, name string, otherwise, least, most int64) (int64, *domain.Error) {
	s := c.echo.QueryParam(name)
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		return 0, domain.Errorf(domain.Invalid, "request.invalid", "%s: want %d to %d", name, least, most)
	}
	return n, nil
}

// schema registers v's schema under a name and refers to it.
func (s *Server) schema(name string, v any) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(v), true, name)
}

// schemaName names a schema in the document after its type.
func schemaName(t reflect.Type, hint string) string { return huma.DefaultSchemaNamer(t, hint) }

func (s *Server) register() {
	s.schema("Problem", Problem{})
	s.tenantRoutes()
	s.apiKeyRoutes()
	s.projectRoutes()
	s.operatorRoutes()
	s.policyRoutes()
	s.skuRoutes()
	s.hostRoutes()
	s.enrollRoutes()
	s.slotRoutes()
	s.wipeDutyRoutes()
	s.epochRoutes()
	s.correctionRoutes()
	s.deviceRoutes()
	s.allocationRoutes()
	s.erasureRoutes()
	s.imageRoutes()
	s.consoleRoutes()
	s.ledgerRoutes()
	s.eventRoutes()
	s.explainRoutes()
	s.auditRoutes()
}
