package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// config is what an operator sets: in a file, then in the environment (GPUAAS_...),
// then by flags; the later wins.
type config struct {
	Site         string `koanf:"site"`
	Region       string `koanf:"region"`
	CRNPrefix    string `koanf:"crn-prefix"`
	DataDir      string `koanf:"data-dir"`
	Listen       string `koanf:"listen"`
	TLSCert      string `koanf:"tls-cert"`
	TLSKey       string `koanf:"tls-key"`
	AdvertiseURL string `koanf:"advertise-url"`
	PeerCA       string `koanf:"peer-ca"`
	ClaimMS      int    `koanf:"claim-milliseconds"`
	NATSListen   string `koanf:"nats-listen"`
	NATSName     string `koanf:"nats-advertise"`
	NATSTLSCert  string `koanf:"nats-tls-cert"`
	NATSTLSKey   string `koanf:"nats-tls-key"`
	NATSURL      string `koanf:"nats-url"`
	NATSCreds    string `koanf:"nats-creds"`
	NATSCA       string `koanf:"nats-ca"`
	Replicas     int    `koanf:"replicas"`
	DatabaseURL  string `koanf:"database-url"`
	Images       string `koanf:"images"`
	ImageStore   string `koanf:"image-store"`
	LogLevel     string `koanf:"log-level"`
	MinFree      int    `koanf:"min-free-percent"`
	MaxLag       uint64 `koanf:"max-projector-lag"`
	Silent       int    `koanf:"host-silent-seconds"`
	Snapshot     uint64 `koanf:"snapshot-every"`
	MaxConns     int    `koanf:"max-connections"`
	LeaveNotice  int    `koanf:"leave-notice-seconds"`

	InsecurePlain bool `koanf:"insecure-plain"`
}

func configFlags(f *pflag.FlagSet) {
	f.String("config", "", "configuration file (YAML)")
	f.String("site", "dev", "name of the site: a-z, 0-9, -")
	f.String("region", "local", "region, part of every resource name")
	f.String("crn-prefix", "core42:aicloud", "the leading words of every resource name")
	f.String("data-dir", "", "directory for the log, secrets and snapshots")
	f.String("listen", "127.0.0.1:8080", "address of the API")
	f.String("tls-cert", "", "certificate chain of the API (PEM); empty serves plain HTTP")
	f.String("tls-key", "", "private key of --tls-cert (PEM); both are read again when they change")
	f.String("advertise-url", "", "where the other processes of the site reach this one's API; empty is --listen")
	f.String("peer-ca", "", "who signed the certificates of the site's other processes (PEM); empty is whom the machine trusts")
	f.Int("claim-milliseconds", 2000, "how long a writer that is not heard of stays the writer")
	f.String("nats-listen", "127.0.0.1:0", "address of the embedded NATS server; port 0 takes a free one and keeps it")
	f.String("nats-advertise", "", "name or address, and port if it is another, that hosts connect to; empty is nats-listen")
	f.String("nats-tls-cert", "", "certificate chain of the embedded NATS server (PEM); empty speaks plain TCP")
	f.String("nats-tls-key", "", "private key of --nats-tls-cert (PEM)")
	f.String("nats-url", "", "use an external NATS cluster instead of the embedded server")
	f.String("nats-creds", "", "directory with admin.creds, runtime.creds and responder.creds of the external cluster")
	f.String("nats-ca", "", "who signed the NATS servers' certificates (PEM), told to hosts too; empty is whom the machine trusts")
	f.Int("replicas", 1, "replicas of every stream: 1 embedded, 3 or 5 on a cluster")
	f.String("database-url", "", "Postgres for the read models; empty runs one of our own in the data directory")
	f.String("images", "", "directory with images (NAME.qcow2, NAME.raw) that are registered at the start")
	f.String("image-store", "", "directory with the bytes of images, the same for all processes of the site; empty is in the data directory")
	f.String("log-level", "info", "debug, info, warn or error")
	f.Int("min-free-percent", 10, "admission stops below this much free disk")
	f.Uint64("max-projector-lag", 2_000_000, "admission stops when the read models are more events behind")
	f.Int("host-silent-seconds", 15, "a host without heartbeats for so long is silent")
	f.Uint64("snapshot-every", 20_000, "commits between snapshots of the world")
	f.Int("max-connections", 16384, "connections to the API at once; a quarter of them for one address")
	f.Int("leave-notice-seconds", 0, "after SIGTERM serve on for so long, not ready, so that a load balancer sees it")
	f.Bool("insecure-plain", false, "allow addresses that other machines reach without TLS: keys travel in clear")
}

// loadConfig merges the sources and refuses what it does not know.
func loadConfig(c *cobra.Command) (config, *koanf.Koanf, map[string]string, error) {
	k, origin := koanf.New("."), map[string]string{}
	note := func(name string) {
		for _, key := range k.Keys() {
			if _, ok := origin[key]; !ok {
				origin[key] = name
			}
		}
	}
	layer := func(name string, load func(*koanf.Koanf) error) error {
		l := koanf.New(".")
		if err := load(l); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, key := range l.Keys() {
			if c.Flags().Lookup(key) == nil {
				return fmt.Errorf("%s: unknown setting %q: see gpuaas serve --help", name, key)
			}
			origin[key] = name
		}
		return k.Merge(l)
	}
	if path, _ := c.Flags().GetString("config"); path != "" {
		if err := layer(path, func(l *koanf.Koanf) error { return l.Load(file.Provider(path), yaml.Parser()) }); err != nil {
			return config{}, nil, nil, err
		}
	}
	fromEnv := env.Provider(".", env.Opt{Prefix: "GPUAAS_", TransformFunc: func(key, v string) (string, any) {
		key = strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, "GPUAAS_")), "_", "-")
		if c.Flags().Lookup(key) == nil {
			return "", nil // somebody else's variable: GPUAAS_CACHE and the like
		}
		return key, v
	}})
	if err := layer("environment", func(l *koanf.Koanf) error { return l.Load(fromEnv, nil) }); err != nil {
		return config{}, nil, nil, err
	}
	if err := k.Load(posflag.Provider(c.Flags(), ".", k), nil); err != nil {
		return config{}, nil, nil, err
	}
	c.Flags().Visit(func(f *pflag.Flag) { origin[f.Name] = "flag" })
	note("default")
	var cfg config
	if err := k.Unmarshal("", &cfg); err != nil {
		return config{}, nil, nil, err
	}
	if cfg.DataDir == "" {
		return config{}, nil, nil, errors.New("--data-dir is required: where the log and the site's secrets are kept")
	}
	abs, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return config{}, nil, nil, err
	}
	cfg.DataDir = abs
	return cfg, k, origin, os.MkdirAll(cfg.DataDir, 0o755)
}

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	show := &cobra.Command{Use: "show", Short: "Print every setting; with --origin, where it comes from", Args: cobra.NoArgs}
	configFlags(show.Flags())
	withOrigin := show.Flags().Bool("origin", false, "print the source of each setting")
	show.RunE = func(c *cobra.Command, _ []string) error {
		_, k, origin, err := loadConfig(c)
		if err != nil {
			return err
		}
		for _, key := range k.Keys() {
			if key == "config" || key == "help" || key == "origin" {
				continue
			}
			if *withOrigin {
				fmt.Fprintf(c.OutOrStdout(), "%-22s %-40v %s\n", key, k.Get(key), origin[key])
			} else {
				fmt.Fprintf(c.OutOrStdout(), "%s: %v\n", key, k.Get(key))
			}
		}
		return nil
	}
	c.AddCommand(show)
	return c
}
