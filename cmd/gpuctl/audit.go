package main

import (
	"encoding/json"
	"iter"
	"strings"

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
	{name: "BY", cell: func(d client.Denial) string {
		w := denied(d)
		return first(w.UserID, w.KeyID, w.Actor, w.Remote)
	}},
	{name: "WHY", cell: func(d client.Denial) string { return denied(d).Code }},
	{name: "WHAT", cell: func(d client.Denial) string {
		w := denied(d)
		return first(strings.TrimSpace(w.Method+" "+w.Path), strings.TrimSpace(w.Action+" "+w.Detail), string(d.Data))
	}},
}

// refused is what most denials say of themselves.
type refused struct {
	Code   string `json:"code"`
	Method string `json:"method"`
	Path   string `json:"path"`
	UserID string `json:"user_id"`
	KeyID  string `json:"key_id"`
	Remote string `json:"remote"`
	Actor  string `json:"actor"` // a host's refusal
	Action string `json:"action"`
	Detail string `json:"detail"`
}

func denied(d client.Denial) (w refused) {
	_ = json.Unmarshal(d.Data, &w) // of another form: it is shown as it is
	return w
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
	var limit int
	denials := &cobra.Command{
		Use: "denials", Short: "What was refused, the oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage("--limit: want 0 or more")
			}
			return many(a, cmd.Context(), limit, denialColumns, func(ctx cx, c *client.Client) (iter.Seq2[client.Denial, error], error) { return c.Denials(ctx), nil })
		},
	}
	denials.Flags().IntVar(&limit, "limit", 0, "show at most so many (0: all)")
	accepted.AddCommand(denials)
	return accepted
}
