package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/guest"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/metadata"
	"github.com/gpuaas/gpuaas/hostd/network"
)

// openNetwork brings up the tenants' networks, in the host's own namespace, and the
// metadata service on their bridges.
func (m *Machine) openNetwork(ctx context.Context) (err error) {
	if m.o.Network == nil {
		dir := filepath.Join(m.o.Dir, "net")
		bridges := network.OpenVSwitch{Run: network.Run(m.o.Run), Dir: dir, RunDir: m.o.OVSRunDir}
		m.o.Network, err = network.New(dir, network.Run(m.o.Run), bridges, network.Options{
			Uplink: m.o.Uplink, Closed: m.o.Closed, Metadata: true, Shared: true,
		})
		if err != nil {
			return err
		}
	}
	m.metadata, err = metadata.New(metadata.Options{Sockets: m.o.Sockets, Guest: m.asker, Alive: m.call, Log: m.o.Log})
	if err != nil {
		return err
	}
	if err := m.o.Network.Start(ctx); err != nil {
		return err
	}
	return m.metadata.Apply(m.o.Network.Interfaces())
}

// profile is what a guest may ask of the metadata service, in guest.json of its
// folder: the seed has the same, and goes with it.
type profile struct {
	Hostname string   `json:"hostname"`
	SSHKeys  []string `json:"ssh_keys"`
	UserData []byte   `json:"user_data"`
}

// introduce writes down what the metadata service answers for the VM.
func (m *Machine) introduce(v *machine.VM) error {
	if err := durable.WriteJSON(m.guests.File(v.VM, "guest.json"), profile{v.Hostname, v.SSHKeys, v.UserData}); err != nil {
		return fmt.Errorf("linux: %w", err)
	}
	return nil
}

// asker is the VM whose port on that bridge has that address.
func (m *Machine) asker(_ context.Context, bridge string, source netip.Addr) (metadata.Guest, bool) {
	port, ok := m.o.Network.Find(bridge, source)
	if !ok {
		return metadata.Guest{}, false
	}
	g := metadata.Guest{VM: port.VM, Hostname: port.Hostname, MAC: port.MAC, Address: source, Subnet: netip.PrefixFrom(source, 24).Masked()}
	var id domain.VMID
	var p profile
	err := id.UnmarshalText([]byte(port.VM))
	if err == nil {
		err = durable.ReadJSON(m.guests.File(id, "guest.json"), &p)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.o.Log.Warn("what a guest may know of itself cannot be read", "vm", port.VM, "err", err)
	}
	g.SSHKeys, g.UserData = p.SSHKeys, p.UserData
	return g, err == nil
}

// call notes that a guest asked for its metadata: a sign of life.
func (m *Machine) call(vm string) {
	port, ok := m.o.Network.Port(vm)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.called[port.MAC] = guest.Sign{At: time.Now(), Address: port.Address()}
}

// signs are the guests' last signs of life: a DHCP lease, or a call of the metadata
// service.
func (m *Machine) signs() (map[string]guest.Sign, error) {
	leases, err := m.o.Network.Leases()
	if err != nil {
		return nil, err
	}
	signs := make(map[string]guest.Sign, len(leases))
	for mac, l := range leases {
		signs[mac] = guest.Sign{At: l.At, Address: l.Address}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for mac, c := range m.called {
		if _, ok := signs[mac]; !ok || c.At.After(signs[mac].At) {
			signs[mac] = c
		}
		if time.Since(c.At) > time.Hour {
			delete(m.called, mac) // it was seen long ago, or its VM is gone
		}
	}
	return signs, nil
}

// tend brings the network's daemons back when they are gone.
func (m *Machine) tend(ctx context.Context) error {
	if m.o.Network.Running() {
		return nil
	}
	m.o.Log.Warn("a daemon of the network is gone: starting it")
	return errors.Join(m.o.Network.Start(ctx), m.metadata.Apply(m.o.Network.Interfaces()))
}
