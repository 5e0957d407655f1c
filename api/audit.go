package api

import (
	"encoding/json"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// AuditEntry is one accepted command.
type AuditEntry struct {
	Sequence  uint64 `json:"sequence" doc:"The commit it stands in"`
	At        string `json:"at" format:"date-time"`
	CommandID string `json:"command_id"`
	Type      string `json:"type" example:"allocation.create"`
	Actor     string `json:"actor" enum:"system,api_key,host"`
	KeyID     string `json:"key_id,omitempty"`
	UserID    string `json:"user_id,omitempty"`
	HostID    string `json:"host_id,omitempty"`
	TenantID  string `json:"tenant_id,omitempty"`
	Resource  string `json:"resource,omitempty" doc:"What was changed"`
	Events    uint32 `json:"events" doc:"How many events followed"`
	Reason    string `json:"reason,omitempty" doc:"What an operator gave as reason for a key in the tenant"`
}

// Denial is one request, or report, that was not accepted.
type Denial struct {
	At   string          `json:"at" format:"date-time"`
	Kind string          `json:"kind" example:"denial"`
	Data json.RawMessage `json:"data" doc:"Who, what, and the problem's code; never a secret"`
}

func (s *Server) auditRoutes() {
	read(s, route{
		path: "/v1/audit", id: "list-audit", tag: "Site", summary: "Every accepted command: of a tenant, or of the site",
		query: append([]*param{queryParam("tenant_id", "Whose; a tenant's own key may leave it out.", stringSchema), queryParam("actor", "Only by system, api_key or host.", stringSchema)}, paging...),
	}, s.listAudit)
	read(s, route{
		path: "/v1/audit/denials", id: "list-denials", tag: "Site", summary: "What was refused: denials, not-founds, reports that were not believed", query: []*param{limitParam, afterParam},
	}, s.listDenials)
}

func (s *Server) listAudit(c *call) (*List[AuditEntry], *domain.Error) {
	by := projections.AuditFilter{Actor: c.echo.QueryParam("actor")}
	if by.Tenant.UnmarshalText([]byte(c.echo.QueryParam("tenant_id"))) != nil {
		return nil, notFound("tenant")
	}
	if by.Tenant.IsZero() && !c.platform() {
		by.Tenant = c.caller.Member.Tenant
		if by.Tenant.IsZero() {
			return nil, notFound("tenant")
		}
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.AuditEntry], error) {
		return s.o.Reads.Audit(c.ctx(), c.scope(), by, o)
	}, func(r *projections.AuditEntry) AuditEntry {
		return AuditEntry{
			Sequence: uint64(r.N), At: r.At.String(), CommandID: r.CommandID, Type: r.Type, Actor: r.Actor, KeyID: r.KeyID, UserID: r.UserID,
			HostID: r.HostID, TenantID: r.TenantID, Resource: r.Resource, Events: r.Events, Reason: r.Reason,
		}
	})
}

func (s *Server) listDenials(c *call) (*List[Denial], *domain.Error) {
	if err := c.requirePlatform(); err != nil {
		return nil, err
	}
	limit, err := limitOf(c.echo.QueryParam("limit"))
	if err != nil {
		return nil, err
	}
	after := uint64(0)
	if s := c.echo.QueryParam("cursor"); s != "" {
		var ok bool
		if after, ok = c.s.cursors.open("denial", s); !ok {
			return nil, errCursor()
		}
	}
	if err := c.now(); err != nil {
		return nil, err
	}
	records, next, aerr := s.o.Audit.Page(c.ctx(), after, limit)
	if aerr != nil {
		e := domain.Errorf(domain.Unavailable, "audit.unavailable", "the audit stream does not answer now: try again")
		e.Cause = aerr
		return nil, e
	}
	out := &List[Denial]{Items: make([]Denial, len(records))}
	for i, r := range records {
		data := r.Data
		if !json.Valid(data) {
			data, _ = json.Marshal(string(data))
		}
		out.Items[i] = Denial{At: r.At.UTC().Format(time.RFC3339Nano), Kind: r.Kind, Data: data}
	}
	if len(records) == limit {
		out.NextCursor = s.cursors.seal("denial", next)
	}
	return out, nil
}
