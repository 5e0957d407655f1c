package main

import (
	"iter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var auditColumns = []column[client.AuditEntry]{
	{name: "TIME", cell: func(e client.AuditEntry) string { return when(e.At) }},
	{name: "COMMAND", cell: func(e client.AuditEntry) string { return e.Type }},
	{name: "BY", cell: func(e client.AuditEntry) string { return first(e.UserID, e.KeyID, e.HostID, e.Actor) }},
	{name: "ABOUT", cell: func(e client.AuditEntry) string { return e.Resource }},
	{name: "EVENTS", cell: func(e client.AuditEntry) string { return itoa(e.Events) }},
	{name: "COMMAND ID", cell: func(e client.AuditEntry) string { return e.CommandID }},
}

func (a *app) audit() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "Who did what; --tenant narrows it", Args: cobra.NoArgs}
	return listing(a, c, auditColumns, func(ctx cx, c *client.Client) (iter.Seq2[client.AuditEntry, error], error) {
		tenant := ""
		if a.flags.tenant != "" {
			var err error
			if tenant, err = a.tenantID(quiet(ctx)); err != nil {
				return nil, err
			}
		}
		return c.Audit(ctx, tenant), nil
	})
}
