package network

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// OpenVSwitch are bridges of Open vSwitch, one for each tenant, with the ports'
// taps made and plugged in here. OpenFlow guards every port (see flows): a bridge
// without flows passes nothing, so a port is closed until it is guarded, and a
// daemon that lost its flows closes them all.
type OpenVSwitch struct {
	Run      Run
	Dir      string // for files of flows
	RunDir   string // of Open vSwitch; "": /var/run/openvswitch
	Datapath string // "": the kernel's; "netdev": in user space
}

// ovsTimeout bounds each call; the tools' own limit is shorter and says more.
const ovsTimeout = 20 * time.Second

// mark is the external id of our bridges.
const mark = "gpuaas=tenant"

var ourTap = regexp.MustCompile(`^gtap[0-9]+$`)

// Plugs implements Bridges.
func (OpenVSwitch) Plugs() bool { return true }

// Epoch implements Bridges: it is the daemon's process, which starts without flows.
func (o OpenVSwitch) Epoch() string {
	b, _ := os.ReadFile(o.rundir("ovs-vswitchd.pid")) // absent: it does not run, and what is made anew later is another
	return strings.TrimSpace(string(b))
}

// Apply implements Bridges.
func (o OpenVSwitch) Apply(ctx context.Context, want []Bridge) error {
	have, err := o.bridges(ctx)
	if err != nil {
		return err
	}
	links, err := o.links(ctx)
	if err != nil {
		return err
	}
	if err := o.removeStale(ctx, have, want); err != nil {
		return err
	}
	for _, link := range links {
		if ourTap.MatchString(link) && !wantedTap(want, link) {
			if _, err := o.call(ctx, "ip", "link", "delete", "dev", link); err != nil {
				return err
			}
		}
	}
	for _, b := range want {
		if err := o.bridge(ctx, b, have[b.Name], links); err != nil {
			return fmt.Errorf("%s: %w", b.Name, err)
		}
	}
	return nil
}

func wantedTap(want []Bridge, tap string) bool {
	return slices.ContainsFunc(want, func(b Bridge) bool { return b.has(tap) })
}

func (b Bridge) has(tap string) bool {
	return slices.ContainsFunc(b.Ports, func(p Port) bool { return p.Tap() == tap })
}

// removeStale takes bridges and ports away that are not wanted. A port's flows go
// before it: its number is given to the next port.
func (o OpenVSwitch) removeStale(ctx context.Context, have map[string][]string, want []Bridge) error {
	names := make([]string, 0, len(have))
	for name := range have {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		k := slices.IndexFunc(want, func(b Bridge) bool { return b.Name == name })
		if k < 0 {
			if _, err := o.vsctl(ctx, "--if-exists", "del-br", name); err != nil {
				return err
			}
			continue
		}
		stay, stale := want[k], []string(nil)
		stay.Ports = slices.DeleteFunc(slices.Clone(stay.Ports), func(p Port) bool { return !slices.Contains(have[name], p.Tap()) })
		for _, port := range have[name] {
			if !stay.has(port) && port != name {
				stale = append(stale, port)
			}
		}
		if len(stale) == 0 {
			continue
		}
		if err := o.guard(ctx, stay); err != nil {
			return err
		}
		for _, port := range stale {
			if _, err := o.vsctl(ctx, "--if-exists", "del-port", name, port); err != nil {
				return err
			}
		}
	}
	return nil
}

// bridge makes one bridge with its ports, and then opens it.
func (o OpenVSwitch) bridge(ctx context.Context, b Bridge, ports, links []string) error {
	if ports == nil {
		datapath := o.Datapath
		if datapath == "" {
			datapath = "system"
		}
		if _, err := o.vsctl(ctx, "--may-exist", "add-br", b.Name, "--", "set", "Bridge", b.Name, "fail_mode=secure",
			"datapath_type="+datapath, `other_config:hwaddr="`+b.MAC+`"`, "external_ids:"+mark); err != nil {
			return err
		}
	}
	for _, p := range b.Ports {
		if !slices.Contains(links, p.Tap()) {
			if _, err := o.call(ctx, "ip", "tuntap", "add", "dev", p.Tap(), "mode", "tap"); err != nil {
				return err
			}
		}
		// The host itself answers no ARP there: guests would send to the tap instead of the bridge.
		if _, err := o.call(ctx, "sysctl", "-q", "-w", "net.ipv4.conf."+p.Tap()+".arp_ignore=8"); err != nil {
			return err
		}
		if _, err := o.call(ctx, "ip", "link", "set", "dev", p.Tap(), "up"); err != nil {
			return err
		}
		if !slices.Contains(ports, p.Tap()) {
			if _, err := o.vsctl(ctx, "--may-exist", "add-port", b.Name, p.Tap()); err != nil {
				return err
			}
		}
	}
	if err := o.guard(ctx, b); err != nil {
		return err
	}
	for _, cidr := range b.Addresses {
		if _, err := o.call(ctx, "ip", "address", "replace", cidr, "dev", b.Name); err != nil {
			return err
		}
	}
	_, err := o.call(ctx, "ip", "link", "set", "dev", b.Name, "up")
	return err
}

// guard makes the bridge's flows be those of its ports, in one transaction.
func (o OpenVSwitch) guard(ctx context.Context, b Bridge) error {
	path := filepath.Join(o.Dir, b.Name+".flows")
	if err := os.WriteFile(path, []byte(flows(b)), 0o600); err != nil {
		return err
	}
	_, err := o.call(ctx, "ovs-ofctl", "--timeout=10", "-O", "OpenFlow14", "--bundle", "replace-flows", "unix:"+o.rundir(b.Name+".mgmt"), path)
	return err
}

// bridges are our bridges with the names of their ports, as the database has them.
func (o OpenVSwitch) bridges(ctx context.Context) (map[string][]string, error) {
	table, err := o.table(ctx, "--columns=name,ports", "find", "Bridge", "external_ids:"+mark)
	if err != nil {
		return nil, err
	}
	names, err := o.table(ctx, "--columns=_uuid,name", "list", "Port")
	if err != nil {
		return nil, err
	}
	name := map[string]string{}
	for _, row := range names {
		for _, id := range uuids(row[0]) {
			name[id] = text(row[1])
		}
	}
	have := map[string][]string{}
	for _, row := range table {
		ports := []string{}
		for _, id := range uuids(row[1]) {
			ports = append(ports, name[id])
		}
		slices.Sort(ports)
		if bridge := text(row[0]); ours.MatchString(bridge) {
			have[bridge] = ports
		}
	}
	return have, nil
}

// table runs ovs-vsctl for a table of two columns, in the JSON of RFC 7047,
// section 5.1.
func (o OpenVSwitch) table(ctx context.Context, args ...string) ([][2]json.RawMessage, error) {
	out, err := o.vsctl(ctx, append([]string{"--format=json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var t struct {
		Data [][2]json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return nil, fmt.Errorf("ovs-vsctl %s: %w", strings.Join(args, " "), err)
	}
	return t.Data, nil
}

func text(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // what is no string is no name of ours
	return s
}

// uuids reads one ["uuid", ID], or ["set", [...]] of them.
func uuids(raw json.RawMessage) (ids []string) {
	var pair []json.RawMessage
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 {
		return nil
	}
	switch text(pair[0]) {
	case "uuid":
		return []string{text(pair[1])}
	case "set":
		var set []json.RawMessage
		_ = json.Unmarshal(pair[1], &set)
		for _, e := range set {
			ids = append(ids, uuids(e)...)
		}
	}
	return ids
}

// links are the names of the namespace's interfaces.
func (o OpenVSwitch) links(ctx context.Context) ([]string, error) {
	out, err := o.call(ctx, "ip", "-json", "link", "show")
	if err != nil {
		return nil, err
	}
	var links []struct {
		Name string `json:"ifname"`
	}
	if err := json.Unmarshal(out, &links); err != nil {
		return nil, fmt.Errorf("ip link show: %w", err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names, nil
}

func (o OpenVSwitch) rundir(name string) string {
	dir := o.RunDir
	if dir == "" {
		dir = "/var/run/openvswitch"
	}
	return filepath.Join(dir, name)
}

func (o OpenVSwitch) vsctl(ctx context.Context, args ...string) ([]byte, error) {
	return o.call(ctx, "ovs-vsctl", append([]string{"--timeout=10", "--db=unix:" + o.rundir("db.sock")}, args...)...)
}

func (o OpenVSwitch) call(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ovsTimeout)
	defer cancel()
	return o.Run(ctx, name, args...)
}
