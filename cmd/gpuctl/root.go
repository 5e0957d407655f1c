package main

import (
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

const about = `gpuctl rents and runs GPUs on a GPUaaS site.

  gpuctl login --server https://auh1.example.com --key-file my.key
  gpuctl offers
  gpuctl allocations create train-7 --sku gpu-1x --ssh-key-file ~/.ssh/id_ed25519.pub --wait
  gpuctl allocations release train-7

Names can be given where ids are expected. Where to and as whom comes from the
flags, else from GPUCTL_SERVER, GPUCTL_KEY or GPUCTL_KEY_FILE, GPUCTL_TENANT and
GPUCTL_PROJECT, else from the saved context (gpuctl context list).

Exit codes:
  0  done
  1  it failed
  2  wrong usage, or a request that can never succeed
  3  not found
  4  refused: the key is wrong, or its role is too low
  5  conflict: not in this state, or the name is taken
  6  not enough funds, quota or capacity
  7  --wait ran out of time
  8  the site is unavailable`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "gpuctl", Short: "Rents and runs GPUs on a GPUaaS site", Long: about,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFormat() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.server, "server", "", "the site's address (GPUCTL_SERVER)")
	f.StringVar(&a.flags.keyFile, "key-file", "", "file with the API key, - for standard input (GPUCTL_KEY_FILE; GPUCTL_KEY is the key itself)")
	f.StringVar(&a.flags.tenant, "tenant", "", "tenant, by id or name (GPUCTL_TENANT); the key's own if left out")
	f.StringVar(&a.flags.project, "project", "", "project, by id or name (GPUCTL_PROJECT); the tenant's only one if left out")
	f.StringVar(&a.flags.context, "context", "", "saved context to use instead of the current one")
	f.StringVarP(&a.flags.output, "output", "o", "table", "table, or json: the site's own")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage("%v: see %s --help", err, c.CommandPath()) })
	root.AddGroup(&cobra.Group{ID: "daily", Title: "Every day:"}, &cobra.Group{ID: "people", Title: "People, keys and rules:"},
		&cobra.Group{ID: "site", Title: "For those who run the site:"}, &cobra.Group{ID: "here", Title: "This program:"})
	in := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	in("daily", a.offers(), a.allocations(), a.events(), a.balance(), a.ledger(), a.usageLines(), a.projects(), a.images())
	in("people", a.keys(), a.members(), a.policies())
	in("site", a.tenants(), a.credits(), a.skus(), a.hosts(), a.slots(), a.devices(), a.wipeDuties(), a.epoch(), a.corrections(), a.operators(), a.audit())
	in("here", a.login(), a.contexts(), a.whoami(), a.version())
	help := &cobra.Command{
		Use: "help [COMMAND]", Short: "What a command does", GroupID: "here",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usage("no command %q: see gpuctl --help", clean(strings.Join(args, " ")))
			}
			return c.Help()
		},
	}
	root.SetHelpCommand(help)
	root.SetCompletionCommandGroupID("here")
	checkUsage(root)
	return root
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the build", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
			}
			_, err := fmt.Fprintln(a.out, version)
			return err
		},
	}
}

// group is a command that only has commands.
func group(use, short string, aliases []string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Aliases: aliases, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		_ = c.Help()
		return usage("say what to do: %s COMMAND", c.CommandPath())
	}}
	c.AddCommand(commands...)
	return c
}

// checkUsage makes wrong arguments a usage error everywhere.
func checkUsage(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if c.HasSubCommands() && len(args) > 0 {
				return usage("%s has no command %q: see %s --help", c.CommandPath(), clean(args[0]), c.CommandPath())
			}
			if check(c, args) != nil {
				return usage("want %s", strings.TrimSuffix(c.UseLine(), " [flags]"))
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkUsage(sub)
	}
}
