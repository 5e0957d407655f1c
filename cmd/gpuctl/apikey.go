package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var keyColumns = []column[client.APIKey]{
	{name: "NAME", cell: func(k client.APIKey) string { return k.Name }},
	{name: "STATE", cell: func(k client.APIKey) string { return k.State }},
	{name: "USER", cell: func(k client.APIKey) string { return k.UserID }},
	{name: "EXPIRES", cell: func(k client.APIKey) string { return when(k.ExpiresAt) }},
	{name: "ID", cell: func(k client.APIKey) string { return k.ID }},
	{name: "SECRET", wide: true, cell: func(k client.APIKey) string { return k.Secret }},
}

// newKeyFlags are what both kinds of keys take.
type newKeyFlags struct{ expires, file string }

func (f *newKeyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.expires, "expires", "", "a time, or how long from now: 720h")
	c.Flags().StringVar(&f.file, "to-file", "", "write the secret to this new file, mode 0600, and do not show it")
}

func (a *app) createKey(cmd *cobra.Command, n client.NewAPIKey, f newKeyFlags, request func(cx, *client.Client, client.NewAPIKey) (*client.APIKey, error)) (err error) {
	if n.ExpiresAt, err = parseWhen("--expires", f.expires); err != nil {
		return err
	}
	if n.UserID != "" {
		if _, err := userID(n.UserID); err != nil {
			return err
		}
	}
	if f.file == "" {
		return one(a, cmd.Context(), keyColumns, func(ctx cx, c *client.Client) (*client.APIKey, error) {
			k, err := request(ctx, c, n)
			if err == nil && !a.json() {
				fmt.Fprintln(a.err, "the secret is shown this once")
			}
			return k, err
		})
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	// Before the request: a secret that cannot be written is lost.
	file, err := os.OpenFile(f.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usage("--to-file %s: it is there, and may hold another key: choose another name", f.file)
	}
	if err != nil {
		return usage("--to-file: %v", err)
	}
	k, err := request(cmd.Context(), c, n)
	if err != nil {
		_ = file.Close()
		_ = os.Remove(f.file)
		return err
	}
	_, err = file.WriteString(k.Secret + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return &failure{exitFailed, fmt.Sprintf("the secret of key %s could not be written: %v", k.ID, err), "revoke it, and create another: gpuctl keys revoke " + k.ID}
	}
	if a.json() {
		k.Secret = ""
		b, err := json.Marshal(k)
		if err != nil {
			return err
		}
		return a.writeJSON(b)
	}
	fmt.Fprintln(a.out, clean(k.ID))
	return nil
}

func (a *app) keys() *cobra.Command {
	var n client.NewAPIKey
	var f newKeyFlags
	create := &cobra.Command{
		Use: "create NAME", Short: "Create an API key; its secret is shown once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			tenant, err := a.tenantID(cmd.Context())
			if err != nil {
				return err
			}
			return a.createKey(cmd, n, f, func(ctx cx, c *client.Client, n client.NewAPIKey) (*client.APIKey, error) {
				return c.CreateAPIKey(ctx, tenant, n)
			})
		},
	}
	create.Flags().StringVar(&n.Role, "role", "", "of the key's own service user: owner, admin, billing, viewer (default admin)")
	create.Flags().StringVar(&n.Reason, "reason", "", "for operators: why another key in this tenant is needed: ticket-4711; the tenant reads it")
	create.Flags().StringVar(&n.UserID, "user", "", "make it a key of this user instead")
	f.add(create)
	list := listCommand(a, "The tenant's keys", keyColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.APIKey, error], error) {
		tenant, err := a.tenantID(quiet(ctx))
		return c.APIKeys(ctx, tenant, o...), err
	})
	revoke := &cobra.Command{
		Use: "revoke KEY", Short: "End a key at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.keyID(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.RevokeAPIKey(ctx, id) })
		},
	}
	return group("keys", "API keys", []string{"key", "api-keys"}, create, list, revoke)
}

// change makes a request whose answer is only where something is now.
func (a *app) change(cmd *cobra.Command, request func(cx, *client.Client) (*client.Changed, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	ctx, answers := capture(cmd.Context())
	v, err := request(ctx, c)
	if err != nil {
		return err
	}
	if a.json() {
		return a.writeJSON((*answers)[len(*answers)-1].Body)
	}
	_, err = fmt.Fprintln(a.out, clean(v.ID), clean(v.State))
	return err
}
