package main

import (
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var operatorColumns = []column[client.Operator]{
	{name: "USER", cell: func(o client.Operator) string { return o.UserID }},
	{name: "ROLES", cell: func(o client.Operator) string { return strings.Join(o.Roles, ", ") }},
	{name: "STATE", cell: func(o client.Operator) string { return o.State }},
	{name: "SET", cell: func(o client.Operator) string { return when(o.SetAt) }},
}

func (a *app) operators() *cobra.Command {
	var given []string
	var none bool
	set := &cobra.Command{
		Use: "set [USER] --role ROLE", Short: "Set a user's platform roles; without USER a new one's", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(given) == 0) != none {
				return usage("--role: want operator, finance or auditor, or --none to take all away")
			}
			if none && len(args) == 0 {
				return usage("--none: say whose: gpuctl operators set USER --none")
			}
			return one(a, cmd.Context(), operatorColumns, func(ctx cx, c *client.Client) (*client.Operator, error) {
				if len(args) == 0 {
					return c.CreateOperator(ctx, given...)
				}
				user, err := userID(args[0])
				if err != nil {
					return nil, err
				}
				return c.SetOperator(ctx, user, given...)
			})
		},
	}
	set.Flags().StringSliceVar(&given, "role", nil, "operator, finance, auditor; may be repeated")
	set.Flags().BoolVar(&none, "none", false, "take all roles away")
	var f newKeyFlags
	key := &cobra.Command{
		Use: "key USER NAME", Short: "Create an API key of an operator; its secret is shown once", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			user, err := userID(args[0])
			if err != nil {
				return err
			}
			return a.createKey(cmd, client.NewAPIKey{Name: args[1]}, f, func(ctx cx, c *client.Client, n client.NewAPIKey) (*client.APIKey, error) {
				return c.CreateOperatorAPIKey(ctx, user, n)
			})
		},
	}
	f.add(key)
	list := listCommand(a, "Who runs the site", operatorColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Operator, error], error) {
		return c.Operators(ctx, o...), nil
	})
	keys := listing(a, &cobra.Command{Use: "keys", Short: "Their API keys; gpuctl keys revoke ID ends one", Args: cobra.NoArgs}, keyColumns,
		func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.APIKey, error], error) {
			return c.OperatorAPIKeys(ctx, o...), nil
		})
	return group("operators", "The people who run the site", []string{"operator"}, set, list, key, keys)
}
