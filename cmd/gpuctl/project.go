package main

import (
	"iter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var projectColumns = []column[client.Project]{
	{name: "NAME", cell: func(p client.Project) string { return p.Name }},
	{name: "STATE", cell: func(p client.Project) string { return p.State }},
	{name: "CREATED", cell: func(p client.Project) string { return when(p.CreatedAt) }},
	{name: "ID", cell: func(p client.Project) string { return p.ID }},
	{name: "TENANT", wide: true, cell: func(p client.Project) string { return p.TenantID }},
	{name: "CRN", wide: true, cell: func(p client.Project) string { return p.CRN }},
}

func (a *app) projects() *cobra.Command {
	create := &cobra.Command{
		Use: "create NAME", Short: "Create a project", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, err := a.tenantID(cmd.Context())
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), projectColumns, func(ctx cx, c *client.Client) (*client.Project, error) {
				return c.CreateProject(ctx, tenant, client.NewProject{Name: args[0]})
			})
		},
	}
	list := listCommand(a, "The tenant's projects", projectColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Project, error], error) {
		tenant, err := a.tenantID(quiet(ctx))
		return c.Projects(ctx, tenant, o...), err
	})
	return group("projects", "Projects", []string{"project"}, list, create,
		getCommand(a, "get PROJECT", "Show a project", projectColumns, a.projectNamed, (*client.Client).Project))
}
