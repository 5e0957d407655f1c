package main

import (
	"context"
	"iter"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

type cx = context.Context

func itoa(n int) string { return strconv.Itoa(n) }

var tenantColumns = []column[client.Tenant]{
	{name: "NAME", cell: func(t client.Tenant) string { return t.Name }},
	{name: "STATE", cell: func(t client.Tenant) string { return t.State }},
	{name: "CURRENCY", cell: func(t client.Tenant) string { return t.Currency }},
	{name: "CREDIT LINE", cell: func(t client.Tenant) string { return money(t.CreditLineMicros, t.Currency) }},
	{name: "CREDIT ENDS", cell: func(t client.Tenant) string { return when(t.CreditEndsAt) }},
	{name: "ID", cell: func(t client.Tenant) string { return t.ID }},
	{name: "BILLING ZONE", wide: true, cell: func(t client.Tenant) string { return t.BillingTimeZone }},
	{name: "GRACE UNTIL", wide: true, cell: func(t client.Tenant) string { return when(t.GraceUntil) }},
	{name: "CRN", wide: true, cell: func(t client.Tenant) string { return t.CRN }},
	{name: "CREATED", wide: true, cell: func(t client.Tenant) string { return when(t.CreatedAt) }},
}

func (a *app) tenants() *cobra.Command {
	var n client.NewTenant
	var line string
	create := &cobra.Command{
		Use: "create NAME", Short: "Create a tenant", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			n.Name = args[0]
			if n.CreditLineMicros, err = parseMoney(line); err != nil {
				return err
			}
			return one(a, cmd.Context(), tenantColumns, func(ctx cx, c *client.Client) (*client.Tenant, error) { return c.CreateTenant(ctx, n) })
		},
	}
	create.Flags().StringVar(&n.Currency, "currency", "USD", "ISO 4217; never changes")
	create.Flags().StringVar(&n.BillingTimeZone, "billing-time-zone", "", "its months are the billing periods: America/New_York; UTC if left out; never changes")
	create.Flags().StringVar(&line, "credit-line", "0", "how far below zero the tenant may go: 100.00")
	get := &cobra.Command{
		Use: "get [TENANT]", Short: "Show a tenant", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return one(a, cmd.Context(), tenantColumns, func(ctx cx, c *client.Client) (*client.Tenant, error) {
				if len(args) > 0 {
					a.flags.tenant = args[0]
				}
				id, err := a.tenantID(cmd.Context())
				if err != nil {
					return nil, err
				}
				return c.Tenant(ctx, id)
			})
		},
	}
	return group("tenants", "Tenants", []string{"tenant"}, create, listCommand(a, "Tenants", tenantColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Tenant, error], error) {
		return c.Tenants(ctx, o...), nil
	}), get)
}

// lister makes a list from a context whose answers are shown (names are found with
// quiet) and the options that the flags stand for.
type lister[T any] func(cx, *client.Client, ...client.ListOption) (iter.Seq2[T, error], error)

// listCommand is `list` of anything.
func listCommand[T any](a *app, short string, columns []column[T], request lister[T]) *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: short, Args: cobra.NoArgs}
	return listing(a, c, columns, request)
}

// listing makes a command one that shows a list.
func listing[T any](a *app, c *cobra.Command, columns []column[T], request lister[T]) *cobra.Command {
	var limit int
	var newest bool
	c.Flags().IntVar(&limit, "limit", 0, "show at most so many (0: all)")
	c.Flags().BoolVar(&newest, "newest", false, "the newest first")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 0 {
			return usage("--limit: want 0 or more")
		}
		var options []client.ListOption
		if limit > 0 {
			options = append(options, client.PageSize(limit))
		}
		if newest {
			options = append(options, client.NewestFirst())
		}
		return many(a, cmd.Context(), limit, columns, func(ctx cx, c *client.Client) (iter.Seq2[T, error], error) { return request(ctx, c, options...) })
	}
	return c
}

// getCommand is `get` of anything that has an id.
func getCommand[T any](a *app, use, short string, columns []column[T], find func(cx, string) (string, error), get func(*client.Client, cx, string) (*T, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), columns, func(ctx cx, c *client.Client) (*T, error) { return get(c, ctx, id) })
		},
	}
}

// plainList is a command that shows a list without pages.
func plainList[T any](a *app, use, short string, check cobra.PositionalArgs, columns []column[T], request func(cx, *client.Client, []string) (iter.Seq2[T, error], error)) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: check,
		RunE: func(cmd *cobra.Command, args []string) error {
			return many(a, cmd.Context(), 0, columns, func(ctx cx, c *client.Client) (iter.Seq2[T, error], error) { return request(ctx, c, args) })
		},
	}
	if use == "list" {
		c.Aliases = []string{"ls"}
	}
	return c
}
