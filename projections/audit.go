package projections

import (
	"context"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// auditRow is one accepted command.
type auditRow struct {
	at       at
	position int
	d        *domain.Decision
	tenant   string
	resource string
	reason   string
}

var auditInserts = inserts("audit",
	bigint("n", func(r *auditRow) uint64 { return r.at.N }),
	integer("position", func(r *auditRow) int { return r.position }),
	instant("at", func(r *auditRow) domain.Time { return r.at.At }),
	ident("command_id", func(r *auditRow) domain.CommandID { return r.d.Command.ID }),
	text("type", func(r *auditRow) string { return commandType(&r.d.Command) }),
	text("actor", func(r *auditRow) string { return r.d.Command.Actor.Kind.String() }),
	ident("key_id", func(r *auditRow) domain.APIKeyID { return r.d.Command.Actor.Key }),
	ident("host_id", func(r *auditRow) domain.HostID { return r.d.Command.Actor.Host }),
	text("tenant_id", func(r *auditRow) string { return r.tenant }),
	text("resource", func(r *auditRow) string { return r.resource }),
	integer("events", func(r *auditRow) int { return len(r.d.Events) }),
	bigint("number", func(r *auditRow) uint64 { return r.at.Number }),
	text("reason", func(r *auditRow) string { return r.reason }),
)

// commandType is "" for a commit that was decoded without its commands.
func commandType(c *domain.Command) string {
	if c.Body == nil {
		return ""
	}
	return c.Body.CommandType()
}

// record puts a decision on the audit trail, as about its first event's resource.
func (b *batch) record(x *at, position int, d *domain.Decision) {
	r := &auditRow{at: at{At: x.At, N: x.N}, position: position, d: d}
	if len(d.Events) > 0 {
		first := &d.Events[0]
		r.at.Number, r.resource = first.Number, first.Body.Resource()
		if owner := first.Body.Owner(); strings.HasPrefix(owner, "ten_") {
			r.tenant = owner
		}
	}
	for i := range d.Events {
		if e, ok := d.Events[i].Body.(*domain.APIKeyCreated); ok {
			r.reason = e.Reason
		}
	}
	b.audit = append(b.audit, r)
}

// AuditEntry is one accepted command.
type AuditEntry struct {
	N         int64       `json:"sequence" db:"n"`
	Position  int32       `json:"index" db:"position"`
	At        domain.Time `json:"at" db:"at"`
	CommandID string      `json:"command_id" db:"command_id"`
	Type      string      `json:"type" db:"type"`
	Actor     string      `json:"actor" db:"actor"` // "system", "api_key" or "host"
	KeyID     string      `json:"key_id,omitempty" db:"key_id"`
	UserID    string      `json:"user_id,omitempty" db:"user_id"` // the key's, if it may be seen
	HostID    string      `json:"host_id,omitempty" db:"host_id"`
	TenantID  string      `json:"tenant_id,omitempty" db:"tenant_id"`
	Resource  string      `json:"resource,omitempty" db:"resource"`
	Events    uint32      `json:"events" db:"events"`
	Reason    string      `json:"reason,omitempty" db:"reason"`
}

func (a AuditEntry) place() cursor { return cursor{a.N, int64(a.Position)} }

// AuditFilter narrows the trail; zero values do not.
type AuditFilter struct {
	Tenant domain.TenantID
	Actor  string // "system", "api_key" or "host"
}

// Audit lists accepted commands: of one tenant, or (for platform roles) of the
// site. What was refused is in the audit stream.
func (r *Reader) Audit(ctx context.Context, scope Scope, by AuditFilter, o ListOptions) (page Page[AuditEntry], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		var f filter
		if by.Tenant.IsZero() {
			err = v.requirePlatform()
		} else {
			err = v.requireTenant(ctx, by.Tenant)
			f.add("a.tenant_id = ? AND a.tenant_id <> ''", by.Tenant.String())
		}
		if err != nil {
			return err
		}
		if by.Actor != "" {
			f.add("a.actor = ?", by.Actor)
		}
		page, err = list[AuditEntry](ctx, v, listAudit, `SELECT a.n, a.position, a.at, a.command_id, a.type, a.actor, a.key_id, coalesce(k.user_id, '') AS user_id,
			a.host_id, a.tenant_id, a.resource, a.events, a.reason FROM audit a LEFT JOIN api_keys k ON k.id = a.key_id`, f, []string{"a.n", "a.position"}, o)
		return err
	})
	return page, err
}
