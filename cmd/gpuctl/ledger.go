package main

import (
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var balanceColumns = []column[client.Balance]{
	{name: "AVAILABLE", cell: func(b client.Balance) string { return money(b.AvailableMicros, b.Currency) }},
	{name: "HELD", cell: func(b client.Balance) string { return money(b.HeldMicros, b.Currency) }},
	{name: "UNBILLED", cell: func(b client.Balance) string { return money(b.UnbilledMicros, b.Currency) }},
	{name: "RECEIVABLE", cell: func(b client.Balance) string { return money(b.ReceivableMicros, b.Currency) }},
	{name: "AS OF", cell: func(b client.Balance) string { return when(b.AsOf) }},
}

func (a *app) balance() *cobra.Command {
	return &cobra.Command{
		Use: "balance", Short: "The tenant's money now, open usage included", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tenant, err := a.tenantID(cmd.Context())
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), balanceColumns, func(ctx cx, c *client.Client) (*client.Balance, error) { return c.Balance(ctx, tenant) })
		},
	}
}

var ledgerColumns = []column[client.LedgerEntry]{
	{name: "EFFECTIVE", cell: func(e client.LedgerEntry) string { return when(e.EffectiveAt) }},
	{name: "KIND", cell: func(e client.LedgerEntry) string { return e.Kind }},
	{name: "ACCOUNT", cell: func(e client.LedgerEntry) string { return e.Account }},
	{name: "AMOUNT", cell: func(e client.LedgerEntry) string { return money(e.AmountMicros, e.Currency) }},
	{name: "ALLOCATION", cell: func(e client.LedgerEntry) string { return e.AllocationID }},
	{name: "TRANSACTION", cell: func(e client.LedgerEntry) string { return e.TxID }},
}

func (a *app) ledger() *cobra.Command {
	c := &cobra.Command{Use: "ledger", Short: "The tenant's postings, in the order they were recorded", Args: cobra.NoArgs}
	return listing(a, c, ledgerColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.LedgerEntry, error], error) {
		tenant, err := a.tenantID(quiet(ctx))
		return c.Ledger(ctx, tenant, o...), err
	})
}

var usageColumns = []column[client.UsageLine]{
	{name: "ALLOCATION", cell: func(u client.UsageLine) string { return first(u.Allocation, u.AllocationID) }},
	{name: "SKU", cell: func(u client.UsageLine) string { return u.SKU }},
	{name: "GPUS", cell: func(u client.UsageLine) string { return itoa(u.GPUs) }},
	{name: "START", cell: func(u client.UsageLine) string { return when(u.Start) }},
	{name: "END", cell: func(u client.UsageLine) string { return first(when(u.End), "open") }},
	{name: "FREE", cell: func(u client.UsageLine) string { return yes(u.Free) }},
	{name: "VM", cell: func(u client.UsageLine) string { return u.VMID }},
}

func (a *app) usageLines() *cobra.Command {
	var from, to string
	c := &cobra.Command{Use: "usage", Short: "The tenant's billable time, a line a VM; --project narrows it", Args: cobra.NoArgs}
	c.Flags().StringVar(&from, "from", "", "what overlaps this time on, or so long ago: 24h")
	c.Flags().StringVar(&to, "to", "", "up to this time, or so long ago")
	return listing(a, c, usageColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (list iter.Seq2[client.UsageLine, error], err error) {
		var q client.UsageQuery
		if q.From, err = parsePast("--from", from); err != nil {
			return nil, err
		}
		if q.To, err = parsePast("--to", to); err != nil {
			return nil, err
		}
		tenant, err := a.tenantID(quiet(ctx))
		if err == nil && a.flags.project != "" {
			q.Project, err = a.projectID(quiet(ctx))
		}
		return c.Usage(ctx, tenant, q, o...), err
	})
}

var creditColumns = []column[client.Credit]{
	{name: "AMOUNT", cell: func(g client.Credit) string { return money(g.AmountMicros, g.Currency) }},
	{name: "LEFT", cell: func(g client.Credit) string {
		if g.BalanceMicros == nil {
			return ""
		}
		return money(*g.BalanceMicros, g.Currency)
	}},
	{name: "KIND", cell: func(g client.Credit) string { return g.Kind }},
	{name: "STATE", cell: func(g client.Credit) string { return g.State }},
	{name: "PRIORITY", cell: func(g client.Credit) string { return itoa(g.Priority) }},
	{name: "EXPIRES", cell: func(g client.Credit) string { return when(g.ExpiresAt) }},
	{name: "ID", cell: func(g client.Credit) string { return g.ID }},
	{name: "TENANT", wide: true, cell: func(g client.Credit) string { return g.TenantID }},
}

func (a *app) credits() *cobra.Command {
	var n client.NewCredit
	var expires string
	grant := &cobra.Command{
		Use: "grant TENANT AMOUNT --kind paid|promotional", Short: "Give a tenant credit: 100.00, in its currency", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if n.AmountMicros, err = parseMoney(args[1]); err != nil {
				return err
			}
			if n.ExpiresAt, err = parseWhen("--expires", expires); err != nil {
				return err
			}
			if n.Kind != "paid" && n.Kind != "promotional" {
				return usage("--kind: want paid or promotional")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			tenant, err := a.tenantNamed(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if n.Currency == "" {
				b, err := c.Balance(cmd.Context(), tenant)
				if err != nil {
					return err
				}
				n.Currency = b.Currency
			}
			n.Currency = strings.ToUpper(n.Currency)
			return one(a, cmd.Context(), creditColumns, func(ctx cx, c *client.Client) (*client.Credit, error) { return c.GrantCredit(ctx, tenant, n) })
		},
	}
	grant.Flags().StringVar(&n.Kind, "kind", "", "paid or promotional")
	grant.Flags().StringVar(&n.Currency, "currency", "", "the tenant's, if left out")
	grant.Flags().IntVar(&n.Priority, "priority", 0, "lower is used first")
	grant.Flags().StringVar(&expires, "expires", "", "a time, or how long from now")
	list := listCommand(a, "The tenant's credits", creditColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Credit, error], error) {
		tenant, err := a.tenantID(quiet(ctx))
		return c.Credits(ctx, tenant, o...), err
	})
	return group("credits", "Credits of tenants", []string{"credit"}, grant, list)
}
