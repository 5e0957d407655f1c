package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/hostd"
)

func enrollCommand() *cobra.Command {
	var o hostd.EnrollOptions
	var ca string
	cmd := &cobra.Command{
		Use:   "enroll --server URL --token TOKEN --dir DIR",
		Short: "Exchange a one-time token for this host's identity",
		Long: `Exchange the one-time token that POST /v1/hosts answered for this host's identity.

The host makes its own keys; only their public halves leave it. The same token with
the same keys can be sent again, if the answer was lost. The token may also be in
the environment, as HOSTD_TOKEN, where other users of the machine do not see it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Token == "" {
				o.Token = os.Getenv("HOSTD_TOKEN")
			}
			if ca != "" {
				b, err := os.ReadFile(ca)
				if err != nil {
					return err
				}
				trusted, err := trust(ca, string(b))
				if err != nil {
					return err
				}
				o.Client = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trusted}}
			}
			id, err := enroll(cmd.Context(), o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "enrolled as %s at site %s\n", id.Host, id.Site)
			return err
		},
	}
	cmd.Flags().StringVar(&o.Server, "server", "", "base URL of the site's API")
	cmd.Flags().StringVar(&o.Token, "token", "", "the one-time token (or HOSTD_TOKEN)")
	cmd.Flags().StringVar(&o.Dir, "dir", "/var/lib/hostd", "the host's own directory")
	cmd.Flags().StringVar(&ca, "ca", "", "PEM file: who signed the API's certificate (default: whom the machine trusts)")
	cmd.Flags().BoolVar(&o.Insecure, "insecure", false, "allow plain http to another machine")
	_ = cmd.MarkFlagRequired("server")
	return cmd
}

func enroll(ctx context.Context, o hostd.EnrollOptions) (*hostd.Identity, error) {
	key, err := natsKey(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.NATSPublicKey, err = key.PublicKey(); err != nil {
		return nil, err
	}
	o.Token = strings.TrimSpace(o.Token)
	return hostd.Enroll(ctx, o)
}

// natsKey reads the key of the host's connection, or makes it.
func natsKey(dir string) (nkeys.KeyPair, error) {
	seed, err := hostd.LoadSecret(dir, hostd.SecretNATSSeed)
	if err == nil {
		return nkeys.FromSeed(seed)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	if seed, err = key.Seed(); err != nil {
		return nil, err
	}
	return key, hostd.SaveSecret(dir, hostd.SecretNATSSeed, seed)
}
