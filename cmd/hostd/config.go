package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
)

// config is what hostd run needs to know. The file is YAML with these names;
// a flag that is given wins over the file.
type config struct {
	Dir      string    `yaml:"dir"`       // the host's own directory
	Machine  string    `yaml:"machine"`   // sim, lab or linux
	Fleet    string    `yaml:"fleet"`     // sim: a file that lists many hosts
	LogLevel string    `yaml:"log_level"` // debug, info, warn or error
	NATSCA   string    `yaml:"nats_ca"`   // PEM file: who signs the site's NATS certificate; "": the system's
	Slots    int       `yaml:"slots"`     // sim and lab: how many
	ShutDown bool      `yaml:"shut_down"` // lab: take VMs and libvirt down at the end
	Sim      simConfig `yaml:"sim"`

	Linux linuxConfig `yaml:"linux"`

	ImageCacheBytes int64         `yaml:"image_cache_bytes"`
	DevicePatience  time.Duration `yaml:"device_patience"` // how long a VM of before waits for its devices after a boot of the host
}

type simConfig struct {
	Seed   string        `yaml:"seed"`
	Faults string        `yaml:"faults"` // fault script, a file
	Boot   time.Duration `yaml:"boot"`
	Wipe   time.Duration `yaml:"wipe"`
	Sync   bool          `yaml:"sync"` // what a host knows outlives a power cut, too, as that of a real one
}

func (c *config) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(c); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// fleetHost is one host of a fleet file, which is a JSON list of them. With a server
// and a token a host that is not enrolled yet enrolls itself.
type fleetHost struct {
	Dir    string `json:"dir"`
	Slots  int    `json:"slots,omitempty"`
	Seed   string `json:"seed,omitempty"`   // "": the host's id
	Faults string `json:"faults,omitempty"` // fault script, a file
	Server string `json:"server,omitempty"`
	Token  string `json:"token,omitempty"`
}

func (c *config) hosts() ([]fleetHost, error) {
	if c.Fleet == "" {
		if c.Dir == "" {
			return nil, errors.New("--dir is required")
		}
		return []fleetHost{{Dir: c.Dir, Slots: c.Slots, Seed: c.Sim.Seed, Faults: c.Sim.Faults}}, nil
	}
	if c.Machine != "sim" {
		return nil, fmt.Errorf("--fleet runs many simulated hosts: --machine is %q", c.Machine)
	}
	b, err := os.ReadFile(c.Fleet)
	if err != nil {
		return nil, err
	}
	var out []fleetHost
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Fleet, err)
	}
	seen := map[string]bool{}
	for i := range out {
		h := &out[i]
		if h.Dir == "" || seen[filepath.Clean(h.Dir)] {
			return nil, fmt.Errorf("%s: host %d has no dir, or another host's", c.Fleet, i)
		}
		seen[filepath.Clean(h.Dir)] = true
		if h.Slots == 0 {
			h.Slots = c.Slots
		}
	}
	return out, nil
}
