package projections

import (
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
}

var auditInserts = inserts("audit",
	integer("n", func(r *auditRow) uint64 { return r.at.N }),
	integer("position", func(r *auditRow) int { return r.position }),
	instant("at", func(r *auditRow) domain.Time { return r.at.At }),
	text("command_id", func(r *auditRow) string { return r.d.Command.ID.String() }),
	text("type", func(r *auditRow) string { return commandType(&r.d.Command) }),
	text("actor", func(r *auditRow) string { return r.d.Command.Actor.Kind.String() }),
	text("key_id", func(r *auditRow) string { return r.d.Command.Actor.Key.String() }),
	text("host_id", func(r *auditRow) string { return r.d.Command.Actor.Host.String() }),
	text("tenant_id", func(r *auditRow) string { return r.tenant }),
	text("resource", func(r *auditRow) string { return r.resource }),
	integer("events", func(r *auditRow) int { return len(r.d.Events) }),
	integer("number", func(r *auditRow) uint64 { return r.at.Number }),
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
	b.audit = append(b.audit, r)
}
