package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
)

func natsCommand() *cobra.Command {
	c := &cobra.Command{Use: "nats", Short: "Set up a NATS cluster for a site"}
	var o server.Options
	var trust, listen, cluster, certFile, keyFile, caFile string
	var routes []string
	config := &cobra.Command{
		Use: "config", Short: "Print the configuration of one nats-server of a site's cluster", Args: cobra.NoArgs,
		Long: "Prints what nats-server -c reads: the site's trust (made in --trust at the first call, and the same for all members), JetStream with sync always, the cluster. Only public parts of the trust are printed; gpuaas serve needs the directory itself, as --nats-creds.",
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := streams.ParseSite(o.Site); err != nil {
				return err
			}
			if trust == "" || o.Dir == "" || o.Name == "" {
				return errors.New("--trust, --dir and --name are required")
			}
			if (certFile == "") != (keyFile == "") || certFile != "" && caFile == "" {
				return errors.New("--tls-cert, --tls-key and --tls-ca go together")
			}
			var err error
			if o.Host, o.Port, err = splitPort(listen); err != nil {
				return fmt.Errorf("--listen: %w", err)
			}
			if cluster != "" {
				o.Cluster = &server.Cluster{Name: o.Site, Routes: routes}
				if o.Cluster.Host, o.Cluster.Port, err = splitPort(cluster); err != nil {
					return fmt.Errorf("--cluster-listen: %w", err)
				}
			}
			if o.Trust, err = server.OpenTrust(trust, o.Site); err != nil {
				return err
			}
			text, err := o.ConfigFile(certFile, keyFile, caFile)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), text)
			return err
		},
	}
	f := config.Flags()
	f.StringVar(&o.Site, "site", "", "name of the site")
	f.StringVar(&trust, "trust", "", "directory with the site's NATS trust; made if it is not there")
	f.StringVar(&o.Name, "name", "", "name of this server, unique in the cluster")
	f.StringVar(&o.Dir, "dir", "", "directory of this server's files")
	f.StringVar(&listen, "listen", "127.0.0.1:4222", "address for clients")
	f.StringVar(&o.Advertise, "advertise", "", "host:port that clients are told to come back to")
	f.StringVar(&cluster, "cluster-listen", "", "address for the other members; empty is a single server")
	f.StringSliceVar(&routes, "route", nil, "host:port of every member's --cluster-listen")
	f.StringVar(&certFile, "tls-cert", "", "certificate chain of this server (PEM), for clients and members")
	f.StringVar(&keyFile, "tls-key", "", "private key of --tls-cert (PEM)")
	f.StringVar(&caFile, "tls-ca", "", "who signed the members' certificates (PEM)")
	c.AddCommand(config)
	return c
}

func splitPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	return host, n, err
}
