package main

import (
	"iter"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/gpuaas/gpuaas/client"
)

var allocationColumns = []column[client.Allocation]{
	{name: "NAME", cell: func(x client.Allocation) string { return x.Name }},
	{name: "STATE", cell: func(x client.Allocation) string { return x.State }},
	{name: "SKU", cell: func(x client.Allocation) string { return x.SKU }},
	{name: "VMS", cell: func(x client.Allocation) string { return itoa(x.Count) }},
	{name: "ADDRESS", cell: addresses},
	{name: "CREATED", cell: func(x client.Allocation) string { return when(x.CreatedAt) }},
	{name: "ID", cell: func(x client.Allocation) string { return x.ID }},
	{name: "REASON", wide: true, cell: reasonOf},
	{name: "TAGS", wide: true, cell: tagsOf},
	{name: "IMAGE", wide: true, cell: func(x client.Allocation) string { return x.Image }},
	{name: "GPUS A VM", wide: true, cell: func(x client.Allocation) string { return itoa(x.Shape) }},
	{name: "EXPIRES", wide: true, cell: func(x client.Allocation) string { return when(x.ExpiresAt) }},
	{name: "RELEASED", wide: true, cell: func(x client.Allocation) string { return when(x.ReleasedAt) }},
	{name: "HOSTS", wide: true, cell: hostsOf},
	{name: "PROJECT", wide: true, cell: func(x client.Allocation) string { return x.ProjectID }},
	{name: "CRN", wide: true, cell: func(x client.Allocation) string { return x.CRN }},
}

// reasonOf says why it ended, or why it is off or not ready; and that it costs nevertheless.
func reasonOf(x client.Allocation) string {
	switch x.State {
	case client.Stopped:
	case client.Provisioning, client.Starting:
		if i := slices.IndexFunc(x.VMs, func(v client.VM) bool { return !v.BilledSince.IsZero() }); i >= 0 {
			return "its guest has not said that it is ready (see its console); billed since " + when(x.VMs[i].BilledSince)
		}
		return x.Reason
	default:
		return x.Reason
	}
	var why []string
	for _, v := range x.VMs {
		if v.Reason != "" && !slices.Contains(why, v.Reason) {
			why = append(why, v.Reason)
		}
	}
	return strings.TrimSpace(strings.Join(why, ", ") + " (its GPUs are kept, and billed until it is released)")
}

var allocationStates = []string{
	client.Pending, client.Provisioning, client.Starting, client.Running, client.Stopping, client.Stopped,
	client.Releasing, client.Released, client.Failed, client.Silent,
}

func (a *app) allocations() *cobra.Command {
	var all bool
	var state string
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "The project's allocations", Args: cobra.NoArgs}
	list.Flags().BoolVarP(&all, "all", "a", false, "also those that are gone, as -o json does")
	list.Flags().StringVar(&state, "state", "", "only those in this state, or in one of several: running,stopped")
	listing(a, list, allocationColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Allocation, error], error) {
		if err := oneOf("--state", state, allocationStates); err != nil {
			return nil, err
		}
		project, err := a.projectID(quiet(ctx))
		if err != nil {
			return nil, err
		}
		if all || state != "" || a.json() {
			return c.Allocations(ctx, project, state, o...), nil
		}
		return c.Allocations(ctx, project, "", append(o, client.OnlyLive())...), nil
	})
	get := getCommand(a, "get NAME", "Show one", allocationColumns, a.allocationID, (*client.Client).Allocation)
	return group("allocations", "Virtual machines with GPUs", []string{"allocation", "alloc"}, a.launch(), list, get,
		a.act("stop NAME", "Stop: the slots and their disks are kept, and billed", client.Stopped, false, (*client.Client).StopAllocation),
		a.act("start NAME", "Start again", client.Running, false, (*client.Client).StartAllocation),
		a.act("reboot NAME", "Reboot", client.Running, false, (*client.Client).RebootAllocation),
		a.act("release NAME", "Release: the VMs and their disks are gone, the slots wiped", client.Released, true, (*client.Client).ReleaseAllocation),
		a.allocationEvents(), a.console(), a.erasure(), a.explain())
}

// launchFlags are what a launch takes.
type launchFlags struct {
	n        client.NewAllocation
	keyFiles []string
	dataFile string
	tags     []string
	expires  string
	idemKey  string
	wait     waitFlags
}

func (a *app) launch() *cobra.Command {
	var f launchFlags
	c := &cobra.Command{
		Use: "create [NAME] --sku SKU", Short: "Launch VMs: all of --count or none", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				f.n.Name = args[0]
			}
			if err := f.read(a); err != nil {
				return err
			}
			project, err := a.projectID(cmd.Context())
			if err != nil {
				return err
			}
			launch := func(ctx cx, c *client.Client) (*client.Allocation, error) {
				if f.idemKey != "" {
					ctx = client.WithIdempotencyKey(ctx, f.idemKey)
				}
				return c.CreateAllocation(ctx, project, f.n)
			}
			if !f.wait.on || f.n.DryRun {
				return one(a, cmd.Context(), allocationColumns, launch)
			}
			x, err := launch(cmd.Context(), a.conn)
			if err != nil {
				return err
			}
			return a.waitFor(cmd.Context(), x.ID, f.wait, client.Running)
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.n.SKU, "sku", "", "what to launch: see gpuctl offers")
	fs.IntVar(&f.n.Count, "count", 1, "VMs")
	fs.StringVar(&f.n.Image, "image", "", "the project's default image if left out")
	fs.StringArrayVar(&f.keyFiles, "ssh-key-file", nil, "file with public keys; may be repeated")
	fs.StringVar(&f.dataFile, "user-data-file", "", "file for cloud-init, - for standard input")
	fs.StringArrayVar(&f.tags, "tag", nil, "key=value; may be repeated")
	fs.StringVar(&f.expires, "expires", "", "release it then: a time, or how long from now: 2h")
	fs.BoolVar(&f.n.LockPrice, "lock-price", false, "keep today's price for the whole life")
	fs.BoolVar(&f.n.DryRun, "dry-run", false, "say what would happen and change nothing")
	fs.StringVar(&f.idemKey, "idempotency-key", "", "the same key within 24 hours launches once")
	f.wait.add(c, "it runs")
	_ = c.MarkFlagRequired("sku")
	return c
}

// The bounds of what is read for a launch; the site has its own.
const (
	maxSSHKeyBytes   = 64 << 10
	maxUserDataBytes = 64 << 10
)

// read takes what is in files.
func (f *launchFlags) read(a *app) (err error) {
	for _, name := range f.keyFiles {
		b, err := a.readFile("--ssh-key-file", name, maxSSHKeyBytes)
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "PRIVATE KEY") {
			return usage("--ssh-key-file %s: this is a private key: give its .pub", name)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
				return usage("--ssh-key-file %s: %q is no public key: want lines like those of ~/.ssh/id_ed25519.pub", name, clip(line))
			}
			f.n.SSHKeys = append(f.n.SSHKeys, line)
		}
	}
	if f.dataFile != "" {
		b, err := a.readFile("--user-data-file", f.dataFile, maxUserDataBytes)
		if err != nil {
			return err
		}
		f.n.UserData = string(b)
	}
	for _, t := range f.tags {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" {
			return usage("--tag %q: want key=value", clean(t))
		}
		if f.n.Tags == nil {
			f.n.Tags = map[string]string{}
		}
		f.n.Tags[k] = v
	}
	if f.n.Count < 1 {
		return usage("--count: want 1 or more")
	}
	if err := f.wait.check(); err != nil {
		return err
	}
	f.n.ExpiresAt, err = parseWhen("--expires", f.expires)
	return err
}

// act is a command that does something to an allocation, and the state it leads to.
func (a *app) act(use, short, state string, destroys bool, do func(*client.Client, cx, string) (*client.Changed, error)) *cobra.Command {
	var w waitFlags
	var sure bool
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			id, err := a.allocationID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if destroys {
				if err := a.confirm(sure, "Release %s? Its disks are erased.", clean(args[0])); err != nil {
					return err
				}
			}
			request := func(ctx cx, c *client.Client) (*client.Changed, error) { return do(c, ctx, id) }
			if !w.on {
				return a.change(cmd, request)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if _, err := request(cmd.Context(), c); err != nil {
				return err
			}
			return a.waitFor(cmd.Context(), id, w, state)
		},
	}
	if destroys {
		c.Aliases = []string{"rm"}
		c.Flags().BoolVarP(&sure, "yes", "y", false, "do not ask")
	}
	w.add(c, "it is "+state)
	return c
}

func addresses(x client.Allocation) string {
	var out []string
	for _, v := range x.VMs {
		if v.Address != "" {
			out = append(out, v.Address)
		}
	}
	return few(out)
}

func hostsOf(x client.Allocation) string {
	var out []string
	for _, v := range x.VMs {
		if len(out) == 0 || out[len(out)-1] != v.HostID {
			out = append(out, v.HostID)
		}
	}
	return few(out)
}

// few keeps a table's cell short.
func few(words []string) string {
	if len(words) > 2 {
		return strings.Join(words[:2], ", ") + ", +" + itoa(len(words)-2)
	}
	return strings.Join(words, ", ")
}

// readFile reads a file that a flag names, within bounds.
func (a *app) readFile(flag, name string, most int64) ([]byte, error) {
	r := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usage("%s: %v", flag, err)
		}
		defer f.Close()
		r = f
	}
	return readBounded(r, flag, most)
}

func tagsOf(x client.Allocation) string {
	if x.TagsErased {
		return "(erased)"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(x.Tags)) {
		out = append(out, k+"="+x.Tags[k])
	}
	return few(out)
}
