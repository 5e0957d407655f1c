package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/domain"
)

// devOptions say what local hosts a development site has.
type devOptions struct {
	hosts   int
	gpus    int
	machine string
	bare    bool
	hostd   string
}

func devCommand() *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use: "dev", Short: "Run a whole site on this machine: JetStream, Postgres, API and local hosts", Args: cobra.NoArgs,
		Long: "Runs everything on this machine, enrols local hosts, approves their slot maps and makes a catalog, all through ordinary commands. Started again on the same data directory it goes on where it was.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, _, err := loadConfig(c)
			if err != nil {
				return err
			}
			if cfg.TLSCert != "" || cfg.NATSTLSCert != "" {
				return errors.New("a development site speaks plain on this machine alone: TLS is for gpuaas serve")
			}
			if o.machine != "sim" && o.machine != "lab" {
				return fmt.Errorf("--machine %q: want sim or lab", o.machine)
			}
			if o.machine == "lab" && cfg.Images == "" {
				if cfg.Images, err = labImages(); err != nil {
					return err
				}
			}
			return serve(c.Context(), cfg, func(ctx context.Context, s *site) error {
				if !o.bare {
					if err := s.setUpDev(ctx, o); err != nil {
						return err
					}
				}
				fmt.Fprintf(c.OutOrStdout(), "ready %s key %s\n", s.url(), filepath.Join(cfg.DataDir, "admin.key"))
				return nil
			})
		},
	}
	configFlags(c.Flags())
	home, _ := os.UserHomeDir()
	c.Flags().Lookup("data-dir").DefValue = filepath.Join(home, ".local", "share", "gpuaas-dev")
	_ = c.Flags().Lookup("data-dir").Value.Set(c.Flags().Lookup("data-dir").DefValue)
	f := c.Flags()
	f.IntVar(&o.hosts, "hosts", 2, "local hosts")
	f.IntVar(&o.gpus, "gpus-per-host", 8, "slots of each host")
	f.StringVar(&o.machine, "machine", "sim", "what hosts are made of: sim (in memory) or lab (real VMs, needs root)")
	f.BoolVar(&o.bare, "bare", false, "enrol, approve and create nothing")
	f.StringVar(&o.hostd, "hostd", "", "the hostd binary (default: beside this one, else on PATH)")
	return c
}

// labImages is where make lab-image puts the guest image that a lab's VMs boot.
func labImages() (string, error) {
	cache := os.Getenv("GPUAAS_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("--machine lab: where is the image that make lab-image built? give --images: %w", err)
		}
		cache = filepath.Join(home, ".cache", "gpuaas")
	}
	dir := filepath.Join(cache, "images")
	if found, _ := filepath.Glob(filepath.Join(dir, "*.qcow2")); len(found) == 0 {
		return "", fmt.Errorf("--machine lab boots real images, and there is none in %s: run make lab-image, or give --images", dir)
	}
	return dir, nil
}

// devPrice is 2.49 USD per GPU-hour.
const devPrice domain.Micros = 2_490_000

// setUpDev makes what is missing of hosts and catalog, and starts the hosts.
func (s *site) setUpDev(ctx context.Context, o devOptions) error {
	if err := s.devCatalog(ctx); err != nil {
		return err
	}
	fleet, err := s.devHosts(ctx, o)
	if err != nil {
		return err
	}
	if err := s.startHosts(ctx, o, fleet); err != nil {
		return err
	}
	return s.approveMaps(ctx, fleet)
}

func (s *site) devCatalog(ctx context.Context) error {
	for _, shape := range []uint32{1, 2, 4, 8} {
		r := s.submit(ctx, &domain.CreateSKU{Name: fmt.Sprintf("gpu-%dx", shape), Shape: shape})
		if r.Err != nil {
			if r.Err.Code == "sku.name_taken" {
				continue
			}
			return r.Err
		}
		if r := s.submit(ctx, &domain.PublishPrice{SKU: r.Events[0].(*domain.SKUCreated).ID, Currency: "USD", Micros: devPrice}); r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// devHost is a host of the fleet file, which hostd reads.
type devHost struct {
	ID     domain.HostID `json:"-"`
	Dir    string        `json:"dir"`
	Slots  int           `json:"slots"`
	Seed   string        `json:"seed"`
	Server string        `json:"server"`
	Token  string        `json:"token"`
}

// devHosts enrols the hosts that the site does not have yet.
func (s *site) devHosts(ctx context.Context, o devOptions) ([]devHost, error) {
	fleet := make([]devHost, o.hosts)
	for i := range fleet {
		name := fmt.Sprintf("%s-%02d", o.machine, i+1)
		h := devHost{Dir: filepath.Join(s.cfg.DataDir, "hosts", name), Slots: o.gpus, Seed: name, Server: s.url()}
		h.Token = api.EnrolmentToken(derive(s.secret, "api"), fixedID("dev host "+name))
		if err := os.MkdirAll(h.Dir, 0o755); err != nil {
			return nil, err
		}
		r := s.submit(ctx, &domain.EnrollHost{Name: name, Rack: fmt.Sprintf("r%d", i/16+1), Leaf: "l1", Spine: "s1", TokenID: domain.DigestOf([]byte(h.Token))})
		if r.Err != nil && r.Err.Code != "host.name_taken" {
			return nil, r.Err
		}
		if _, err := s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { h.ID, _ = w.HostByToken(domain.DigestOf([]byte(h.Token))) }); err != nil {
			return nil, err
		}
		if h.ID.IsZero() {
			return nil, fmt.Errorf("host %s exists, but was not enrolled by this data directory: choose another --data-dir", name)
		}
		fleet[i] = h
	}
	return fleet, nil
}

// startHosts runs hostd as children: one process for all simulated hosts, one for
// each host of the lab. They end with the site; real VMs do not.
func (s *site) startHosts(ctx context.Context, o devOptions, fleet []devHost) error {
	bin, err := hostdPath(o.hostd)
	if err != nil {
		return err
	}
	run := func(name string, args ...string) error {
		log, err := os.OpenFile(filepath.Join(s.cfg.DataDir, "hosts", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		s.closers = append(s.closers, func() { log.Close() })
		c, err := startChild(name, s.log, func() *exec.Cmd {
			cmd := exec.Command(bin, append([]string{"run", "--machine", o.machine}, args...)...)
			cmd.Stdout, cmd.Stderr = log, log
			// SIGINT of the terminal goes to us, and we pass it on. If we are killed, so is
			// hostd: the next start runs a new one, which adopts the VMs that run on.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
			return cmd
		})
		if err != nil {
			return fmt.Errorf("hostd: %w", err)
		}
		s.children = append(s.children, c)
		return nil
	}
	if o.machine == "sim" {
		b, err := json.MarshalIndent(fleet, "", " ")
		if err != nil {
			return err
		}
		path := filepath.Join(s.cfg.DataDir, "hosts", "fleet.json")
		if err := writeFile(path, b); err != nil {
			return err
		}
		return run("hostd", "--fleet", path)
	}
	for _, h := range fleet {
		enroll := exec.CommandContext(ctx, bin, "enroll", "--server", h.Server, "--dir", h.Dir)
		enroll.Env = append(os.Environ(), "HOSTD_TOKEN="+h.Token)
		if out, err := enroll.CombinedOutput(); err != nil {
			return fmt.Errorf("hostd enroll: %w: %s", err, strings.TrimSpace(string(out)))
		}
		if err := run(filepath.Base(h.Dir), "--dir", h.Dir, "--slots", fmt.Sprint(h.Slots), "--shut-down"); err != nil {
			return err
		}
	}
	return nil
}

func hostdPath(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), "hostd"); isFile(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath("hostd")
	if err != nil {
		return "", errors.New("no hostd beside gpuaas or on PATH: run make build, or give --hostd")
	}
	return path, nil
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist) && err == nil && st.Mode().IsRegular()
}

// approveMaps approves what the hosts propose, as an operator would who racked
// them, and waits until their first wipes are through.
func (s *site) approveMaps(ctx context.Context, fleet []devHost) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		waiting, proposals := 0, map[domain.HostID]domain.Digest{}
		if _, err := s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
			for _, h := range fleet {
				proposal, approved, wiping := w.MapOf(h.ID)
				if !approved && !proposal.IsZero() {
					proposals[h.ID] = proposal
				}
				if !approved || wiping > 0 {
					waiting++
				}
			}
		}); err != nil {
			return err
		}
		for id, digest := range proposals {
			if r := s.submit(ctx, &domain.ApproveMap{Host: id, Digest: digest, Policy: domain.WipeAuto}); r.Err != nil {
				return r.Err
			}
		}
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d hosts are not ready; see %s", waiting, filepath.Join(s.cfg.DataDir, "hosts"))
		case <-t.C:
		}
	}
}
