package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Run runs a program inside the network namespace and returns what it printed, to
// the end or until ctx ends.
type Run func(ctx context.Context, name string, args ...string) ([]byte, error)

// Options are what differs between hosts. The zero value is a namespace of our own
// whose only way out is an interface called uplink.
type Options struct {
	Uplink   string         // interface that leads out; "": uplink
	Closed   []netip.Prefix // networks behind it that no guest may reach: management, storage, other hosts
	Metadata bool           // guests reach MetadataAddress, port 80, on their bridge
	Shared   bool           // the namespace is the host's own: only what is ours is touched in it
}

// MetadataAddress is where guests look for their metadata service.
const MetadataAddress = "169.254.169.254"

// Network is the tenants' networks of one host. See [New].
type Network struct {
	dir     string
	run     Run
	bridges Bridges
	o       Options

	mu    sync.Mutex
	ports []Port
	epoch string // of the bridges when they were applied
}

// New reads the wanted ports from dir. It runs nothing: see [Network.Start].
func New(dir string, run Run, bridges Bridges, o Options) (*Network, error) {
	if o.Uplink == "" {
		o.Uplink = "uplink"
	}
	if !interfaceName.MatchString(o.Uplink) {
		return nil, fmt.Errorf("network: %q is no interface's name", o.Uplink)
	}
	n := &Network{dir: dir, run: run, bridges: bridges, o: o}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	b, err := os.ReadFile(n.path("ports.json"))
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &n.ports)
	}
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	return n, nil
}

// Start brings everything up: bridges, rules, dnsmasq. What is up is left alone, what
// is left over goes. Repeated now and then it repairs what others broke: Open
// vSwitch's daemon forgets its flows when it restarts, and passes nothing without.
func (n *Network) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.run(ctx, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	for _, kv := range optional {
		if !n.o.Shared {
			_, _ = n.run(ctx, "sysctl", "-q", "-w", kv) // a kernel without the switch does not do the thing
		}
	}
	return n.apply(ctx)
}

// interfaceName is what may stand in a rule.
var interfaceName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,15}$`)

// optional are switches of things a kernel may lack: IPv6, and br_netfilter, which
// would pass what two VMs of one bridge say to each other through the routed rules
// and drop it.
var optional = []string{
	"net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1",
	"net.bridge.bridge-nf-call-iptables=0",
}

// Attach gives the VM its port and returns it with subnet and address chosen. The
// same port again changes nothing.
func (n *Network) Attach(ctx context.Context, p Port) (Port, error) {
	if err := p.validate(); err != nil {
		return Port{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(n.ports), func(q Port) bool { return q.VM == p.VM })
	for _, q := range rest {
		if q.Slot == p.Slot || q.MAC == p.MAC {
			return Port{}, fmt.Errorf("network: slot %d or %s is %s's", p.Slot, p.MAC, q.VM)
		}
	}
	subnet, err := chooseSubnet(n.ports, p.Tenant)
	if err != nil {
		return Port{}, err
	}
	p.Subnet, p.Plugged = subnet, n.bridges.Plugs()
	if err := n.store(append(rest, p)); err != nil {
		return Port{}, err
	}
	return p, n.apply(ctx)
}

// Detach removes the VM's port, its lease, and the tenant's bridge with the last
// port on it. An absent one is left alone.
func (n *Network) Detach(ctx context.Context, vm string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(n.ports), func(q Port) bool { return q.VM == vm })
	if len(rest) == len(n.ports) {
		return nil
	}
	if err := n.store(rest); err != nil {
		return err
	}
	return n.apply(ctx)
}

// Port returns the VM's port.
func (n *Network) Port(vm string) (Port, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ports {
		if p.VM == vm {
			return p, true
		}
	}
	return Port{}, false
}

// Find returns the port that has this address on this bridge. No other port can
// send with it there.
func (n *Network) Find(bridge string, source netip.Addr) (Port, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ports {
		if bridgeName(p.Subnet) == bridge && p.Address() == source.String() {
			return p, true
		}
	}
	return Port{}, false
}

// Interfaces are the bridges' names: where the metadata service listens.
func (n *Network) Interfaces() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for _, b := range n.wanted() {
		names = append(names, b.Name)
	}
	return names
}

// chooseSubnet is the tenant's subnet, or the lowest free one.
func chooseSubnet(ports []Port, tenant string) (int, error) {
	var used [maxSubnets]bool
	for _, p := range ports {
		if p.Tenant == tenant {
			return p.Subnet, nil
		}
		used[p.Subnet] = true
	}
	for i, u := range used {
		if !u {
			return i, nil
		}
	}
	return 0, fmt.Errorf("network: all %d subnets are taken", maxSubnets)
}

// store makes ports the wanted state, durably.
func (n *Network) store(ports []Port) error {
	slices.SortFunc(ports, func(a, b Port) int { return strings.Compare(a.VM, b.VM) })
	b, err := json.MarshalIndent(ports, "", "  ")
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := n.write("ports.json", b); err != nil {
		return err
	}
	n.ports = ports
	return nil
}

// apply makes the namespace equal to the wanted ports. The rules come first: a
// bridge that is new is closed before it is there.
func (n *Network) apply(ctx context.Context) error {
	if err := n.write("rules.nft", []byte(n.rules())); err != nil {
		return err
	}
	if _, err := n.run(ctx, "nft", "-f", n.path("rules.nft")); err != nil {
		return fmt.Errorf("network: rules: %w", err)
	}
	want := n.wanted()
	epoch := n.bridges.Epoch() // before, so that a loss meanwhile is noticed
	if err := n.bridges.Apply(ctx, want); err != nil {
		return fmt.Errorf("network: bridges: %w", err)
	}
	n.epoch = epoch
	for _, b := range want {
		// No ARP answers for the host's other addresses.
		if _, err := n.run(ctx, "sysctl", "-q", "-w", "net.ipv4.conf."+b.Name+".arp_ignore=1"); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return n.applyDHCP(ctx)
}

// wanted are the bridges for the wanted ports, in the order of their subnets.
func (n *Network) wanted() []Bridge {
	var want []Bridge
	for subnet := range maxSubnets {
		b := Bridge{Name: bridgeName(subnet), MAC: gatewayMAC(subnet), Addresses: []string{gateway(subnet) + "/24"}}
		if n.o.Metadata {
			b.Addresses = append(b.Addresses, MetadataAddress+"/32")
		}
		for _, p := range n.ports {
			if p.Subnet == subnet {
				b.Ports = append(b.Ports, p)
			}
		}
		if len(b.Ports) > 0 {
			want = append(want, b)
		}
	}
	return want
}

func (n *Network) path(name string) string { return filepath.Join(n.dir, name) }

// write replaces the file in one step.
func (n *Network) write(name string, b []byte) error {
	tmp := n.path(name + ".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := os.Rename(tmp, n.path(name)); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}
