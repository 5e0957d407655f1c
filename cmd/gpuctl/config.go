package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// config is what is saved between runs. It may hold keys: mode 0600.
type config struct {
	Current  string                   `json:"current"`
	Contexts map[string]*savedContext `json:"contexts"`
}

// savedContext is a site with a key, and what is meant if nothing is said.
type savedContext struct {
	Server  string `json:"server"`
	KeyFile string `json:"key_file,omitempty"`
	Key     string `json:"key,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Project string `json:"project,omitempty"`
}

const maxConfigBytes = 1 << 20

// configPath is ~/.config/gpuctl/config.json, or where XDG_CONFIG_HOME says.
func (a *app) configPath() string {
	return filepath.Join(first(a.getenv("XDG_CONFIG_HOME"), filepath.Join(a.getenv("HOME"), ".config")), "gpuctl", "config.json")
}

func (a *app) loadConfig() (*config, error) {
	cfg := &config{Contexts: map[string]*savedContext{}}
	path := a.configPath()
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cfg, nil
	case err != nil:
		return nil, err
	case st.Mode().Perm()&0o077 != 0:
		return nil, usage("%s can be read by others and may hold keys: chmod 600 it", path)
	case st.Size() > maxConfigBytes:
		return nil, usage("%s is too large", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, cfg); err != nil {
		return nil, usage("%s: %v", path, err)
	}
	return cfg, nil
}

func (a *app) saveConfig(cfg *config) error {
	b, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(a.configPath(), append(b, '\n'))
}

// writePrivate replaces a file of mode 0600 as a whole.
func writePrivate(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// pick finds a context by name, "" for the current one; without any it is empty.
func (c *config) pick(name string) (*savedContext, error) {
	if name == "" {
		if s := c.Contexts[c.Current]; s != nil {
			return s, nil
		}
		return &savedContext{}, nil
	}
	if s := c.Contexts[name]; s != nil {
		return s, nil
	}
	return nil, usage("no context %q: there are %s", clean(name), strings.Join(c.names(), ", "))
}

func (c *config) names() []string {
	if len(c.Contexts) == 0 {
		return []string{"none"}
	}
	return slices.Sorted(maps.Keys(c.Contexts))
}

func (c *config) String() string { return fmt.Sprintf("%d contexts", len(c.Contexts)) } // and no keys
