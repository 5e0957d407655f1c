package main

import (
	"encoding/json"
	"iter"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var effectiveColumns = []column[client.EffectivePolicy]{
	{name: "KEY", cell: func(p client.EffectivePolicy) string { return p.Key }},
	{name: "VALUE", cell: func(p client.EffectivePolicy) string { return string(p.Value) }},
	{name: "KIND", cell: func(p client.EffectivePolicy) string { return p.Kind }},
	{name: "DECIDED BY", cell: func(p client.EffectivePolicy) string { return strings.TrimSpace(p.Scope + " " + p.ScopeID) }},
	{name: "OVERRULED", cell: func(p client.EffectivePolicy) string { return strings.Join(p.Overruled, ", ") }},
}

var policyColumns = []column[client.Policy]{
	{name: "KEY", cell: func(p client.Policy) string { return p.Key }},
	{name: "VALUE", cell: func(p client.Policy) string {
		if p.State == "removed" {
			return ""
		}
		return string(p.Value)
	}},
	{name: "SCOPE", cell: func(p client.Policy) string { return strings.TrimSpace(p.Scope + " " + p.ScopeID) }},
	{name: "STATE", cell: func(p client.Policy) string { return p.State }},
}

func (a *app) policies() *cobra.Command {
	var keys bool
	effective := &cobra.Command{
		Use: "effective", Short: "What holds in a project, and which scope decided it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all *client.EffectivePolicies
			request := func(ctx cx, c *client.Client) (iter.Seq2[client.EffectivePolicy, error], error) {
				project, err := a.projectID(quiet(ctx))
				if err != nil {
					return nil, err
				}
				if all, err = c.EffectivePolicies(ctx, project); err != nil {
					return nil, err
				}
				return each(all.Items), nil
			}
			if !keys || a.json() {
				return many(a, cmd.Context(), 0, effectiveColumns, request)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if _, err := request(cmd.Context(), c); err != nil {
				return err
			}
			return show(a, all.Keys, []column[client.PolicyMeaning]{
				{name: "KEY", cell: func(m client.PolicyMeaning) string { return m.Key }},
				{name: "KIND", cell: func(m client.PolicyMeaning) string { return m.Kind }},
				{name: "MEANING", cell: func(m client.PolicyMeaning) string { return m.Meaning }},
			})
		},
	}
	effective.Flags().BoolVar(&keys, "keys", false, "what can be set at all, instead")
	set := &cobra.Command{
		Use: "set KEY VALUE --scope global|tenant|project", Short: "Set a policy", Args: cobra.ExactArgs(2),
		Long: "Set a policy. VALUE is a whole number, a word, or a list: a,b (a list of one: a,).\nThe scope is the tenant or project that --tenant or --project say, as everywhere.",
	}
	unset := &cobra.Command{Use: "unset KEY --scope global|tenant|project", Short: "Take a policy away, so that the scope above decides", Args: cobra.ExactArgs(1)}
	for _, c := range []*cobra.Command{set, unset} {
		scope := c.Flags().String("scope", "", "global, tenant or project")
		c.RunE = func(cmd *cobra.Command, args []string) error {
			s, err := a.policyScope(cmd.Context(), *scope)
			if err != nil {
				return err
			}
			return one(a, cmd.Context(), policyColumns, func(ctx cx, c *client.Client) (*client.Policy, error) {
				if cmd == unset {
					return c.RemovePolicy(ctx, s, args[0])
				}
				return c.SetPolicy(ctx, s, args[0], policyValue(args[1]))
			})
		}
	}
	var scope string
	list := plainList(a, "list", "What is set in one scope", cobra.NoArgs, policyColumns, func(ctx cx, c *client.Client, _ []string) (iter.Seq2[client.Policy, error], error) {
		s, err := a.policyScope(quiet(ctx), scope)
		if err != nil {
			return nil, err
		}
		policies, err := c.Policies(ctx, s)
		return each(policies), err
	})
	list.Flags().StringVar(&scope, "scope", "", "global, tenant or project")
	return group("policies", "Quotas, limits and defaults", []string{"policy"}, effective, list, set, unset)
}

func (a *app) policyScope(ctx cx, scope string) (s client.PolicyScope, err error) {
	if _, err = a.client(); err != nil {
		return s, err
	}
	switch scope {
	case "global":
	case "tenant":
		s.Tenant, err = a.tenantID(ctx)
	case "project":
		s.Project, err = a.projectID(ctx)
	default:
		err = usage("--scope: want global, tenant or project")
	}
	return s, err
}

// policyValue reads a value as its writer means it.
func policyValue(s string) any {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	if strings.HasPrefix(s, "[") && json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	if !strings.Contains(s, ",") {
		return s
	}
	words := []string{}
	for _, w := range strings.Split(s, ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	return words
}
