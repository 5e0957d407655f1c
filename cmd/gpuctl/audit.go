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
	{name: "REASON", wide: true, cell: func(e client.AuditEntry) string { return e.Reason }},
	{name: "EVENTS", cell: func(e client.AuditEntry) string { return itoa(e.Events) }},
	{name: "COMMAND ID", cell: func(e client.AuditEntry) string { return e.CommandID }},
}

var denialColumns = []column[client.Denial]{
	{name: "TIME", cell: func(d client.Denial) string { return when(d.At) }},
	{name: "KIND", cell: func(d client.Denial) string { return d.Kind }},
	{name: "WHAT", cell: func(d client.Denial) string { return string(d.Data) }},
}

func (a *app) audit() *cobra.Command {
	accepted := listing(a, &cobra.Command{Use: "audit", Short: "Who did what (--tenant narrows it), and what was refused", Args: cobra.NoArgs}, auditColumns,
		func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.AuditEntry, error], error) {
			tenant := ""
			if a.flags.tenant != "" {
				var err error
				if tenant, err = a.tenantID(quiet(ctx)); err != nil {
					return nil, err
				}
			}
			return c.Audit(ctx, tenant, o...), nil
		})
	accepted.AddCommand(plainList(a, "denials", "What was refused", cobra.NoArgs, denialColumns, func(ctx cx, c *client.Client, _ []string) (iter.Seq2[client.Denial, error], error) {
		return c.Denials(ctx), nil
	}))
	return accepted
}
