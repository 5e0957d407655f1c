package api

import (
	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// HostReason says why a host was chosen, or not.
type HostReason struct {
	HostID string `json:"host_id"`
	VMs    int    `json:"vms,omitempty" doc:"How many of the VMs asked for would go there."`
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
		path: "/v1/explain/placement", id: "explain-placement", tag: "Fleet", summary: "Where VMs of a SKU would go now, and why not elsewhere",
		query: []*param{
			{Name: "sku", In: "query", Required: true, Description: "Name or id.", Schema: stringSchema},
			queryParam("count", "VMs of the launch.", &huma.Schema{Type: "integer", Minimum: floatOf(1), Maximum: floatOf(64), Default: 1}),
			queryParam("project_id", "Whose policies say how to place: without it the site's.", stringSchema), explainLimit,
		},
	}, s.explainPlacement)
}

func (s *Server) explainPlacement(c *call) (*List[HostReason], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	ask := domain.PlacementAsk{SKUName: c.echo.QueryParam("sku")}
	if ask.SKU.UnmarshalText([]byte(ask.SKUName)) != nil {
		ask.SKU = domain.SKUID{}
	}
	count, err := intParam(c, "count", 1, 1, 64)
	if err != nil {
		return nil, err
	}
	ask.Count = uint32(count)
	if text := c.echo.QueryParam("project_id"); text != "" && ask.Project.UnmarshalText([]byte(text)) != nil {
		return nil, notFound("project")
	}
	return s.explain(c, ask, nil)
}

func (s *Server) explainAllocation(c *call) (*List[HostReason], *domain.Error) {
	var id domain.AllocationID
	if err := c.fleetID("a", "allocation", &id); err != nil {
		return nil, err
	}
	a, _, err := found(c, c.allocation(id))
	if err != nil {
		return nil, err
	}
	ask := domain.PlacementAsk{Count: a.Count}
	_ = ask.SKU.UnmarshalText([]byte(a.SKUID)) // written by the projector
	_ = ask.Project.UnmarshalText([]byte(a.ProjectID))
	here := map[string]bool{}
	for _, v := range a.VMs {
		here[v.HostID] = true
	}
	return s.explain(c, ask, here)
}

func (s *Server) explain(c *call, ask domain.PlacementAsk, here map[string]bool) (*List[HostReason], *domain.Error) {
	limit, err := intParam(c, "limit", maxExplained, 1, maxExplained)
	if err != nil {
		return nil, err
	}
	var reasons []domain.HostReason
	if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
		var err *domain.Error
		reasons, err = w.ExplainPlacement(ask, int(limit))
		return err
	}); err != nil {
		return nil, err
	}
	out := &List[HostReason]{Items: make([]HostReason, len(reasons))}
	for i, r := range reasons {
		out.Items[i] = HostReason{HostID: r.Host.String(), VMs: r.VMs, Reason: r.Reason}
		switch {
		case here[out.Items[i].HostID]:
			out.Items[i].Reason = "chosen: a VM of the allocation is here"
		case here != nil && r.VMs > 0:
			out.Items[i].Reason = "would be chosen now"
		}
	}
	return out, nil
}
