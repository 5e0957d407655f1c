package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

func (a *app) login() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "login --server URL --key-file FILE", Short: "Check a key and save it as the current context", Args: cobra.NoArgs,
		Long: "Asks the site what the key stands for and saves both as a context.\nOf a key file the path is saved; a key from standard input (--key-file -) is saved itself, in a file only you can read.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			server := first(a.flags.server, a.getenv("GPUCTL_SERVER"))
			file := first(a.flags.keyFile, a.getenv("GPUCTL_KEY_FILE"))
			if server == "" {
				return usage("say which site: --server URL")
			}
			if file == "" && a.getenv("GPUCTL_KEY") == "" {
				return usage("say which key: --key-file FILE, or - for standard input")
			}
			s := &savedContext{Server: strings.TrimRight(server, "/"), Tenant: a.flags.tenant, Project: a.flags.project}
			key := a.getenv("GPUCTL_KEY")
			var err error
			if file != "" {
				if key, err = a.readKey(file); err != nil {
					return err
				}
			}
			if file == "" || file == "-" {
				s.Key = key
			} else if s.KeyFile, err = filepath.Abs(file); err != nil {
				return err
			}
			if _, err := a.connect(target{server: s.Server, key: key, tenant: s.Tenant, project: s.Project}); err != nil {
				return err
			}
			me, err := a.whoIs(cmd.Context())
			if err != nil {
				return err
			}
			name := first(name, hostOf(s.Server))
			cfg, err := a.loadConfig()
			if err != nil {
				return err
			}
			cfg.Contexts[name], cfg.Current = s, name
			if err := a.saveConfig(cfg); err != nil {
				return err
			}
			if a.json() {
				return a.says(name, "saved")
			}
			fmt.Fprintf(a.out, "logged in to %s as %s (%s); context %s\n", clean(me.Site), clean(me.UserID), roles(me), name)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "the context's name (default: the site's host)")
	return c
}

func hostOf(server string) string {
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		return u.Host
	}
	return "site"
}

func roles(me *client.WhoAmI) string {
	all := slices.Clone(me.Roles)
	if me.TenantRole != "" {
		all = append(all, me.TenantRole+" of "+me.TenantID)
	}
	if len(all) == 0 {
		return "no role"
	}
	return clean(strings.Join(all, ", "))
}

func (a *app) whoami() *cobra.Command {
	columns := []column[client.WhoAmI]{
		{name: "USER", cell: func(m client.WhoAmI) string { return m.UserID }},
		{name: "KEY", cell: func(m client.WhoAmI) string { return m.KeyID }},
		{name: "TENANT", cell: func(m client.WhoAmI) string { return m.TenantID }},
		{name: "ROLE", cell: func(m client.WhoAmI) string { return m.TenantRole }},
		{name: "PLATFORM ROLES", cell: func(m client.WhoAmI) string { return strings.Join(m.Roles, ", ") }},
		{name: "KEY EXPIRES", cell: func(m client.WhoAmI) string { return when(m.KeyExpiresAt) }},
		{name: "SITE", cell: func(m client.WhoAmI) string { return m.Site }},
	}
	return &cobra.Command{
		Use: "whoami", Short: "What this key stands for", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return one(a, cmd.Context(), columns, func(ctx cx, c *client.Client) (*client.WhoAmI, error) { return c.WhoAmI(ctx) })
		},
	}
}

// writeContexts writes the contexts as JSON: which key, never the key.
func (a *app) writeContexts(cfg *config, names []string) error {
	type row struct {
		Name    string `json:"name"`
		Current bool   `json:"current"`
		Server  string `json:"server"`
		Tenant  string `json:"tenant,omitempty"`
		Project string `json:"project,omitempty"`
		KeyFile string `json:"key_file,omitempty"`
	}
	all := []row{}
	for _, n := range names {
		s := cfg.Contexts[n]
		all = append(all, row{n, n == cfg.Current, s.Server, s.Tenant, s.Project, s.KeyFile})
	}
	b, err := json.Marshal(map[string]any{"items": all})
	if err != nil {
		return err
	}
	return a.writeJSON(b)
}

func (a *app) contexts() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "The saved sites and keys", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.loadConfig()
			if err != nil {
				return err
			}
			names := slices.Sorted(maps.Keys(cfg.Contexts))
			if a.json() {
				return a.writeContexts(cfg, names)
			}
			return show(a, names, []column[string]{
				{name: "CURRENT", cell: func(n string) string { return yes(n == cfg.Current) }},
				{name: "NAME", cell: func(n string) string { return n }},
				{name: "SERVER", cell: func(n string) string { return cfg.Contexts[n].Server }},
				{name: "TENANT", cell: func(n string) string { return cfg.Contexts[n].Tenant }},
				{name: "PROJECT", cell: func(n string) string { return cfg.Contexts[n].Project }},
				{name: "KEY", cell: func(n string) string { return first(cfg.Contexts[n].KeyFile, "saved") }},
			})
		},
	}
	use := &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one; --tenant and --project are saved with it", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.loadConfig()
			if err != nil {
				return err
			}
			s, err := cfg.pick(args[0])
			if err != nil {
				return err
			}
			s.Tenant, s.Project = first(a.flags.tenant, s.Tenant), first(a.flags.project, s.Project)
			cfg.Current = args[0]
			if err := a.saveConfig(cfg); err != nil {
				return err
			}
			return a.says(args[0], "current")
		},
	}
	return group("context", "Saved sites and keys", nil, list, use)
}
