package main

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/client"
)

// isID reports whether s is an id of the kind: prefix_ and 26 characters.
func isID(s, prefix string) bool {
	body, ok := strings.CutPrefix(s, prefix+"_")
	return ok && len(body) == 26 && strings.Trim(body, "0123456789abcdefghjkmnpqrstvwxyz") == ""
}

// maxNames bounds what is searched for a name.
const maxNames = 100_000

// named finds the id of what has a name in a list. Of several (names are free again
// once their bearer is gone) the last that prefer likes wins, else the last.
func named[T any](what, name string, list iter.Seq2[T, error], of func(T) (id, name string), prefer func(T) bool) (string, error) {
	found, liked, n := "", false, 0
	for item, err := range list {
		if err != nil {
			return "", err
		}
		if n++; n > maxNames {
			return "", usage("too many to search for %q: give the id", clean(name))
		}
		if id, nm := of(item); nm == name {
			if like := prefer == nil || prefer(item); like || !liked {
				found, liked = id, like
			}
		}
	}
	if found == "" {
		return "", &failure{code: exitNotFound, message: "no " + what + " " + clean(name), hint: hintOfCode[what+".not_found"]}
	}
	return found, nil
}

func (a *app) tenantNamed(ctx context.Context, c *client.Client, name string) (string, error) {
	if isID(name, "ten") {
		return name, nil
	}
	return named("tenant", name, c.Tenants(ctx, client.Named(name)), func(t client.Tenant) (string, string) { return t.ID, t.Name }, nil)
}

// tenantID is the tenant that was said, else the key's own.
func (a *app) tenantID(ctx context.Context) (string, error) {
	c, err := a.client()
	if err != nil {
		return "", err
	}
	if a.flags.tenant != "" {
		return a.tenantNamed(ctx, c, a.flags.tenant)
	}
	me, err := a.whoIs(ctx)
	if err != nil {
		return "", err
	}
	if me.TenantID == "" {
		return "", usage("this key belongs to no tenant: say which with --tenant")
	}
	return me.TenantID, nil
}

// projectID is the project that was said, else the tenant's only one.
func (a *app) projectID(ctx context.Context) (string, error) {
	c, err := a.client()
	if err != nil {
		return "", err
	}
	if isID(a.flags.project, "prj") {
		return a.flags.project, nil
	}
	tenant, err := a.tenantID(ctx)
	if err != nil {
		return "", err
	}
	if a.flags.project != "" {
		return named("project", a.flags.project, c.Projects(ctx, tenant, client.Named(a.flags.project)), func(p client.Project) (string, string) { return p.ID, p.Name }, nil)
	}
	some, err := client.Collect(c.Projects(ctx, tenant), 11)
	switch {
	case err != nil:
		return "", err
	case len(some) == 0:
		return "", usage("the tenant has no project: gpuctl projects create NAME")
	case len(some) > 1:
		names := make([]string, len(some))
		for i, p := range some {
			names[i] = clean(p.Name)
		}
		if len(names) > 10 {
			names[10] = "..."
		}
		return "", usage("say which project with --project: %s", strings.Join(names, ", "))
	}
	return some[0].ID, nil
}

// projectNamed is a project that an argument says.
func (a *app) projectNamed(ctx context.Context, arg string) (string, error) {
	if _, err := a.client(); err != nil { // it takes the context's project: the argument goes before it
		return "", err
	}
	a.flags.project = arg
	return a.projectID(ctx)
}

func (a *app) allocationID(ctx context.Context, arg string) (string, error) {
	c, err := a.client()
	if err != nil || isID(arg, "alloc") {
		return arg, err
	}
	project, err := a.projectID(ctx)
	if err != nil {
		return "", err
	}
	return named("allocation", arg, c.Allocations(ctx, project, "", client.Named(arg)),
		func(x client.Allocation) (string, string) { return x.ID, x.Name },
		func(x client.Allocation) bool { return x.ReleasedAt.IsZero() })
}

func (a *app) hostID(ctx context.Context, arg string) (string, error) {
	c, err := a.client()
	if err != nil || isID(arg, "host") {
		return arg, err
	}
	return named("host", arg, c.Hosts(ctx, client.Named(arg)), func(h client.Host) (string, string) { return h.ID, h.Name }, nil)
}

// slotID takes an id, or host/index.
func (a *app) slotID(ctx context.Context, arg string) (string, error) {
	c, err := a.client()
	if err != nil || isID(arg, "slot") {
		return arg, err
	}
	host, _, ok := strings.Cut(arg, "/")
	if !ok {
		return "", usage("%q: want a slot's id, or HOST/INDEX", clean(arg))
	}
	id, err := a.hostID(ctx, host)
	if err != nil {
		return "", err
	}
	return named("slot", arg, c.Slots(ctx, id, ""), func(s client.Slot) (string, string) { return s.ID, s.Name }, nil)
}

func (a *app) skuID(ctx context.Context, arg string) (string, error) {
	c, err := a.client()
	if err != nil || isID(arg, "sku") {
		return arg, err
	}
	skus, err := c.SKUs(ctx)
	if err != nil {
		return "", err
	}
	return named("sku", arg, each(skus), func(s client.SKU) (string, string) { return s.ID, s.Name }, nil)
}

func (a *app) keyID(ctx context.Context, arg string) (string, error) {
	c, err := a.client()
	if err != nil || isID(arg, "key") {
		return arg, err
	}
	tenant, err := a.tenantID(ctx)
	if err != nil {
		return "", err
	}
	return named("key", arg, c.APIKeys(ctx, tenant, client.Named(arg)), func(k client.APIKey) (string, string) { return k.ID, k.Name }, func(k client.APIKey) bool { return k.RevokedAt.IsZero() })
}

// oneOf refuses a word, or one of several with commas between, that is none of the
// known ones; "" is no word.
func oneOf(flag, words string, known []string) error {
	for w := range strings.SplitSeq(words, ",") {
		if words != "" && !slices.Contains(known, w) {
			return usage("%s %q: want %s", flag, clean(w), strings.Join(known, ", "))
		}
	}
	return nil
}

func userID(arg string) (string, error) {
	if !isID(arg, "usr") {
		return "", usage("%q: want a user's id, usr_ and 26 characters", clean(arg))
	}
	return arg, nil
}
