package main

import (
	"iter"
	"net/mail"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var memberColumns = []column[client.Member]{
	{name: "USER", cell: func(m client.Member) string { return first(m.UserID, m.ID) }},
	{name: "ROLE", cell: func(m client.Member) string { return m.Role }},
	{name: "STATE", cell: func(m client.Member) string { return m.State }},
	{name: "ADDED", cell: func(m client.Member) string { return when(m.AddedAt) }},
	{name: "TENANT", wide: true, cell: func(m client.Member) string { return m.TenantID }},
	{name: "PROJECT", wide: true, cell: func(m client.Member) string { return m.ProjectID }},
}

// members are the tenant's, or with the flag --project the project's: what is only
// in the environment or the context does not count, so that nobody is added to
// something else than was meant.
func (a *app) members() *cobra.Command {
	of := func(cmd *cobra.Command, ctx cx) (tenant, project string, err error) {
		if cmd.Flags().Changed("project") {
			project, err = a.projectID(ctx)
			return "", project, err
		}
		tenant, err = a.tenantID(ctx)
		return tenant, "", err
	}
	var n client.NewMember
	add := &cobra.Command{
		Use: "add [USER] --role ROLE", Short: "Add a member or change its role; without USER a new one", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				var err error
				if n.UserID, err = userID(args[0]); err != nil {
					return err
				}
			}
			if _, err := mail.ParseAddress(n.Email); n.Email != "" && err != nil {
				return usage("--email %q: want an address like ada@example.com", clean(n.Email))
			}
			if n.Role == "" {
				return usage("--role: want owner, admin, billing or viewer; in a project admin, member or viewer")
			}
			tenant, project, err := of(cmd, cmd.Context())
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), memberColumns, func(ctx cx, c *client.Client) (*client.Member, error) {
				if project != "" {
					return c.SetProjectMember(ctx, project, n)
				}
				return c.SetMember(ctx, tenant, n)
			})
		},
	}
	add.Flags().StringVar(&n.Role, "role", "", "owner, admin, billing, viewer; in a project admin, member, viewer")
	add.Flags().StringVar(&n.Email, "email", "", "of a new member of the tenant; only a keyed commitment is kept")
	var list *cobra.Command
	list = listCommand(a, "Who has which role", memberColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Member, error], error) {
		tenant, project, err := of(list, quiet(ctx))
		if project != "" {
			return c.ProjectMembers(ctx, project, o...), err
		}
		return c.Members(ctx, tenant, o...), err
	})
	remove := &cobra.Command{
		Use: "remove USER", Aliases: []string{"rm"}, Short: "Take a member's role away", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			user, err := userID(args[0])
			if err != nil {
				return err
			}
			tenant, project, err := of(cmd, cmd.Context())
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), memberColumns, func(ctx cx, c *client.Client) (*client.Member, error) {
				if project != "" {
					return c.RemoveProjectMember(ctx, project, user)
				}
				return c.RemoveMember(ctx, tenant, user)
			})
		},
	}
	return group("members", "Members of the tenant, or with --project of a project", []string{"member"}, add, list, remove)
}
