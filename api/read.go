package api

import (
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// Reads is the read model.
type Reads interface{}

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

// query asks the world as the caller. The answer reflects everything decided so
// far, so at_least is met unless it lies in the future.
func (c *call) query(f func(w *domain.World, at domain.Time) *domain.Error) *domain.Error {
	least, err := c.atLeast()
	if err != nil {
		return err
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
	s.allocationRoutes()
	s.consoleRoutes()
	s.ledgerRoutes()
	s.eventRoutes()
}
