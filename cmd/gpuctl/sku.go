package main

import (
	"fmt"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var offerColumns = []column[client.Offer]{
	{name: "SKU", cell: func(o client.Offer) string { return o.SKU }},
	{name: "GPUS", cell: func(o client.Offer) string { return itoa(o.Shape) }},
	{name: "CLASS", cell: func(o client.Offer) string { return o.GPUClass }},
	{name: "PER GPU-HOUR", cell: func(o client.Offer) string {
		if o.WhyZero == "sku.no_price" {
			return ""
		}
		return money(o.MicrosPerUnitHour, o.Currency)
	}},
	{name: "AVAILABLE", cell: func(o client.Offer) string { return itoa(o.Quantity) }},
	{name: "WHY ZERO", cell: func(o client.Offer) string { return o.WhyZero }},
}

func (a *app) offers() *cobra.Command {
	return &cobra.Command{
		Use: "offers", Short: "What can be launched now, at which price, and why not more", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return many(a, cmd.Context(), 0, offerColumns, func(ctx cx, c *client.Client) (iter.Seq2[client.Offer, error], error) {
				var tenant, project string
				var err error
				if a.flags.tenant != "" {
					if tenant, err = a.tenantID(quiet(ctx)); err != nil {
						return nil, err
					}
				}
				if a.flags.project != "" {
					if project, err = a.projectID(quiet(ctx)); err != nil {
						return nil, err
					}
				}
				offers, err := c.Offers(ctx, tenant, project)
				return each(offers), err
			})
		},
	}
}

// each is a list that is already there.
func each[T any](items []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}
}

var skuColumns = []column[client.SKU]{
	{name: "NAME", cell: func(s client.SKU) string { return s.Name }},
	{name: "GPUS", cell: func(s client.SKU) string { return itoa(s.Shape) }},
	{name: "CLASS", cell: func(s client.SKU) string { return s.GPUClass }},
	{name: "FEATURES", cell: func(s client.SKU) string { return strings.Join(s.Features, ",") }},
	{name: "LAST PRICE", cell: func(s client.SKU) string {
		for i := len(s.Prices) - 1; i >= 0; i-- {
			if p := s.Prices[i]; p.TenantID == "" {
				return money(p.MicrosPerUnitHour, p.Currency)
			}
		}
		return ""
	}},
	{name: "CREATED", cell: func(s client.SKU) string { return when(s.CreatedAt) }},
	{name: "ID", cell: func(s client.SKU) string { return s.ID }},
}

var priceColumns = []column[client.Price]{
	{name: "PER GPU-HOUR", cell: func(p client.Price) string { return money(p.MicrosPerUnitHour, p.Currency) }},
	{name: "FROM", cell: func(p client.Price) string { return when(p.EffectiveAt) }},
	{name: "TENANT", cell: func(p client.Price) string { return p.TenantID }},
	{name: "SKU", cell: func(p client.Price) string { return p.SKUID }},
	{name: "ID", cell: func(p client.Price) string { return p.ID }},
}

func (a *app) skus() *cobra.Command {
	var n client.NewSKU
	create := &cobra.Command{
		Use: "create NAME --gpus N", Short: "Create a SKU", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			return one(a, cmd.Context(), skuColumns, func(ctx cx, c *client.Client) (*client.SKU, error) { return c.CreateSKU(ctx, n) })
		},
	}
	create.Flags().IntVar(&n.Shape, "gpus", 1, "GPUs of one VM: 1, 2, 4 or 8")
	create.Flags().StringSliceVar(&n.Features, "features", nil, "what its VMs have beyond the plain: secure_boot,vtpm")
	create.Flags().StringVar(&n.GPUClass, "gpu-class", "", "only GPUs of this class: h100-sxm5-80gb")
	list := plainList(a, "list", "The catalog", cobra.NoArgs, skuColumns, func(ctx cx, c *client.Client, _ []string) (iter.Seq2[client.SKU, error], error) {
		skus, err := c.SKUs(ctx)
		return each(skus), err
	})
	get := &cobra.Command{
		Use: "get SKU", Short: "Show a SKU, with all its prices", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.skuID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var sku *client.SKU
			if err := one(a, cmd.Context(), skuColumns, func(ctx cx, c *client.Client) (_ *client.SKU, err error) { sku, err = c.SKU(ctx, id); return sku, err }); err != nil || a.json() {
				return err
			}
			fmt.Fprintln(a.out)
			return show(a, sku.Prices, priceColumns)
		},
	}
	return group("skus", "The catalog: what can be launched, at which price", []string{"sku"}, create, list, get, a.publishPrice(), a.explainSKU())
}

func (a *app) publishPrice() *cobra.Command {
	var currency, from, tenant string
	c := &cobra.Command{
		Use: "price SKU AMOUNT", Short: "Publish a price per GPU and hour: 2.49", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			p := client.NewPrice{Currency: currency}
			if p.MicrosPerUnitHour, err = parseMoney(args[1]); err != nil {
				return err
			}
			if p.EffectiveAt, err = parseWhen("--from", from); err != nil {
				return err
			}
			sku, err := a.skuID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if tenant != "" {
				if p.TenantID, err = a.tenantNamed(cmd.Context(), a.conn, tenant); err != nil {
					return err
				}
			}
			return one(a, cmd.Context(), priceColumns, func(ctx cx, c *client.Client) (*client.Price, error) { return c.PublishPrice(ctx, sku, p) })
		},
	}
	c.Flags().StringVar(&currency, "currency", "USD", "ISO 4217")
	c.Flags().StringVar(&from, "from", "", "from when on: a time, or how long from now; now if left out")
	c.Flags().StringVar(&tenant, "only-tenant", "", "a price of its own for this tenant")
	return c
}
