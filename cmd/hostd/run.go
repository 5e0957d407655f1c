package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/hostd"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/lab"
	"github.com/gpuaas/gpuaas/hostd/machine/linux"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
	"github.com/gpuaas/gpuaas/streams/hostlink"
)

func runCommand(stderr io.Writer) *cobra.Command {
	var given config
	var file string
	cmd := &cobra.Command{
		Use:   "run --dir DIR --machine sim|lab|linux",
		Short: "Run the daemon until SIGINT or SIGTERM; VMs run on. SIGHUP: look at the hardware again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := config{Machine: "linux", LogLevel: "info"}
			if file != "" {
				if err := c.read(file); err != nil {
					return err
				}
			}
			f := cmd.Flags()
			for name, set := range map[string]func(){
				"dir": func() { c.Dir = given.Dir }, "machine": func() { c.Machine = given.Machine }, "fleet": func() { c.Fleet = given.Fleet },
				"slots": func() { c.Slots = given.Slots }, "faults": func() { c.Sim.Faults = given.Sim.Faults }, "log-level": func() { c.LogLevel = given.LogLevel },
				"shut-down": func() { c.ShutDown = given.ShutDown },
			} {
				if f.Changed(name) {
					set()
				}
			}
			return serve(cmd.Context(), c, stderr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "YAML file with these settings and more")
	f.StringVar(&given.Dir, "dir", "", "the host's own directory")
	f.StringVar(&given.Machine, "machine", "linux", "sim (in memory), lab (real VMs, stand-in devices) or linux")
	f.StringVar(&given.Fleet, "fleet", "", "sim: JSON file that lists many hosts to run in this process")
	f.IntVar(&given.Slots, "slots", 0, "sim, lab: how many slots")
	f.StringVar(&given.Sim.Faults, "faults", "", "sim: file with a fault script")
	f.BoolVar(&given.ShutDown, "shut-down", false, "lab: take VMs and libvirt down at the end, as a power cut would")
	f.StringVar(&given.LogLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// serve runs the host, or the fleet, until ctx ends. One host that cannot go on
// ends the process, for its supervisor to start it anew; one of a fleet is started
// anew here.
func serve(ctx context.Context, c config, stderr io.Writer) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level}))
	hosts, err := c.hosts()
	if err != nil {
		return err
	}
	if c.Fleet == "" {
		return serveHost(ctx, c, hosts[0], log)
	}
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(func() {
			for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
				if err := serveHost(ctx, c, h, log); err != nil && ctx.Err() == nil {
					log.Error("host ended, will be started anew", "dir", h.Dir, "err", err)
					select {
					case <-ctx.Done():
					case <-time.After(pause):
					}
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func serveHost(ctx context.Context, c config, h fleetHost, log *slog.Logger) (err error) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // one that comes early ends nobody
	defer signal.Stop(hangup)
	id, err := hostd.LoadIdentity(h.Dir)
	if errors.Is(err, hostd.ErrNotEnrolled) && h.Token != "" {
		id, err = enroll(ctx, hostd.EnrollOptions{Server: h.Server, Token: h.Token, Dir: h.Dir})
	}
	if err != nil {
		return err
	}
	log = log.With("host", id.Host)
	signer, err := hostd.SigningKey(h.Dir)
	if err != nil {
		return err
	}
	parts := new(later)
	m, silent, err := openMachine(ctx, c, h, id, parts, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeMachine(m, c.ShutDown)) }()
	link, err := connect(c, h.Dir, id, log)
	if err != nil {
		return err
	}
	defer link.Close()
	o := hostd.Options{Host: id.Host, Site: id.Site, Dir: h.Dir, Machine: m, Link: link, Signer: signer, Log: log, NoSync: c.Machine == "sim" && !c.Sim.Sync, Limits: hostd.Limits{Patience: c.DevicePatience}}
	if silent != nil {
		o.Link = hostd.Mute(link, silent)
	}
	if c.Machine != "sim" {
		images, err := hostd.NewImageCache(filepath.Join(h.Dir, "images"), link.RequestImage, c.ImageCacheBytes, 0)
		if err != nil {
			return err
		}
		o.Images, o.KeepImages = images.Path, images.Keep
		parts.images.Store(images)
	}
	agent, err := hostd.New(o)
	if err != nil {
		return err
	}
	parts.agent.Store(agent)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { lookAtHangup(ctx, hangup, agent, log) })
	log.Info("hostd runs", "site", id.Site, "machine", c.Machine, "version", hostd.Version())
	return agent.Run(ctx)
}

// lookAtHangup has the agent look at its hardware at every SIGHUP, until ctx ends.
func lookAtHangup(ctx context.Context, hangup <-chan os.Signal, agent *hostd.Agent, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			log.Info("SIGHUP: the hardware is looked at again")
			agent.LookAgain()
		}
	}
}

// openMachine also returns who says that the host plays dead, for a simulated one.
func openMachine(ctx context.Context, c config, h fleetHost, id *hostd.Identity, parts *later, log *slog.Logger) (machine.Machine, func() bool, error) {
	switch c.Machine {
	case "sim":
		o := sim.Options{Seed: h.Seed, Slots: h.Slots, State: filepath.Join(h.Dir, "sim.json"), Sync: c.Sim.Sync, Timings: sim.Timings{Boot: c.Sim.Boot, Wipe: c.Sim.Wipe}, Log: log}
		if o.Seed == "" {
			o.Seed = id.Host.String()
		}
		if h.Faults != "" {
			f, err := os.Open(h.Faults)
			if err != nil {
				return nil, nil, err
			}
			defer f.Close()
			if o.Faults, err = sim.ParseFaults(f); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", h.Faults, err)
			}
		}
		m, err := sim.New(o)
		if err != nil {
			return nil, nil, err
		}
		if len(o.Faults) == 0 {
			return m, nil, nil
		}
		return m, m.Silent, nil
	case "lab":
		m, err := lab.New(ctx, lab.Options{Dir: filepath.Join(h.Dir, "lab"), Slots: h.Slots, Log: log})
		if err != nil {
			return nil, nil, err
		}
		return m, nil, nil
	case "linux":
		o, err := c.Linux.options(h.Dir, id.Host, log)
		if err != nil {
			return nil, nil, err
		}
		o.Discovery.Approved, o.ClearImages = parts.Map, parts.ClearImages
		if why := linux.Missing(o); why != "" {
			return nil, nil, errors.New(why)
		}
		m, err := linux.New(ctx, o)
		if err != nil {
			return nil, nil, err
		}
		return m, nil, nil
	}
	return nil, nil, fmt.Errorf("machine %q: want sim, lab or linux", c.Machine)
}

// closeMachine leaves VMs running, unless the whole machine is to go down: a lab
// that ends with its development site.
func closeMachine(m machine.Machine, shutDown bool) error {
	if l, ok := m.(*lab.Machine); ok && shutDown {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return l.Shutdown(ctx)
	}
	return m.Close()
}

func connect(c config, dir string, id *hostd.Identity, log *slog.Logger) (*hostlink.Link, error) {
	key, err := natsKey(dir)
	if err != nil {
		return nil, err
	}
	jwt, err := hostd.LoadSecret(dir, hostd.SecretNATSJWT)
	if err != nil {
		return nil, err
	}
	o := hostlink.Options{
		URL: id.NATSURL, JWT: string(jwt), Sign: key.Sign, Site: id.Site, Host: id.Host,
		OnError: func(err error) { log.Warn("line to the site", "err", err) },
	}
	ca, from := id.NATSCA, "nats_ca in the identity"
	if c.NATSCA != "" {
		b, err := os.ReadFile(c.NATSCA)
		if err != nil {
			return nil, err
		}
		ca, from = string(b), c.NATSCA
	}
	if ca != "" || strings.HasPrefix(id.NATSURL, "tls:") {
		if o.TLS, err = trust(from, ca); err != nil {
			return nil, err
		}
	}
	return hostlink.Connect(o)
}

// trust accepts servers whose certificate one of ca signed (PEM), or, without any,
// one whom the machine trusts.
func trust(from, ca string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if ca != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", from)
		}
	}
	return c, nil
}
