package api

import (
	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// HostReason says why a host was chosen, or not.
type HostReason struct {
	HostID string `json:"host_id"`
	Reason string `json:"reason" example:"too few free slots"`
}

// maxExplained bounds the hosts of one explanation: it is worked out on the loop.
const maxExplained = 2000

var explainLimit = queryParam("limit", "At most so many hosts.", &huma.Schema{Type: "integer", Minimum: floatOf(1), Maximum: floatOf(maxExplained), Default: maxExplained})

func (s *Server) explainRoutes() {
	read(s, route{
		path: "/v1/allocations/{a}/explain", id: "explain-allocation", tag: "Fleet", summary: "Why an allocation is where it is, host by host",
		about: "Placement works on the fleet as it is now; hosts that have a VM of the allocation say so.", query: []*param{explainLimit},
	}, s.explainAllocation)
	read(s, route{
		path: "/v1/explain/placement", id: "explain-placement", tag: "Fleet", summary: "Where a VM of a SKU would go now, and why not elsewhere",
		query: []*param{{Name: "sku", In: "query", Required: true, Description: "Name or id.", Schema: stringSchema}, explainLimit},
	}, s.explainPlacement)
}

func (s *Server) explainPlacement(c *call) (*List[HostReason], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	var id domain.SKUID
	name := c.echo.QueryParam("sku")
	if id.UnmarshalText([]byte(name)) != nil {
		id = domain.SKUID{}
	}
	return s.explain(c, id, name, nil)
}

func (s *Server) explainAllocation(c *call) (*List[HostReason], *domain.Error) {
	var id domain.AllocationID
	if err := c.fleetID("a", "allocation", &id); err != nil {
		return nil, err
	}
	a, _, err := s.o.Reads.Allocation(c.ctx(), c.scope(), id)
	if err != nil {
		return nil, domain.AsError(err)
	}
	var sku domain.SKUID
	_ = sku.UnmarshalText([]byte(a.SKUID)) // written by the projector
	here := map[string]bool{}
	for _, v := range a.VMs {
		here[v.HostID] = true
	}
	return s.explain(c, sku, "", here)
}

func (s *Server) explain(c *call, id domain.SKUID, name string, here map[string]bool) (*List[HostReason], *domain.Error) {
	limit, err := intParam(c, "limit", maxExplained, 1, maxExplained)
	if err != nil {
		return nil, err
	}
	var reasons []domain.HostReason
	if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
		class, shape, ok := w.SKUShape(id, name)
		if !ok {
			return notFound("sku")
		}
		reasons = w.ExplainPlacement(class, shape, int(limit))
		return nil
	}); err != nil {
		return nil, err
	}
	out := &List[HostReason]{Items: make([]HostReason, len(reasons))}
	for i, r := range reasons {
		out.Items[i] = HostReason{HostID: r.Host.String(), Reason: r.Reason}
		if here[out.Items[i].HostID] {
			out.Items[i].Reason = "chosen: a VM of the allocation is here"
		}
	}
	return out, nil
}
