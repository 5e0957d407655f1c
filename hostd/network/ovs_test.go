package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vswitch plays ovs-vsctl, ovs-ofctl and ip: it keeps bridges, ports and links, and
// records what changes them.
type vswitch struct {
	t       *testing.T
	dir     string
	bridges map[string][]string
	links   []string
	guarded map[string]string // the flows a bridge has
	ran     []string
	fail    string
}

func (v *vswitch) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		v.t.Errorf("%s without a deadline", name)
	}
	line := strings.ReplaceAll(name+" "+strings.Join(args, " "), v.dir, "DIR")
	line = strings.ReplaceAll(line, " --timeout=10 --db=unix:/ovs/db.sock", "")
	if v.fail != "" && strings.Contains(line, v.fail) {
		return nil, errors.New("scripted failure")
	}
	last := func(k int) string { return args[len(args)-k] }
	switch {
	case strings.HasPrefix(line, "ovs-vsctl --format=json --columns=name,ports find Bridge external_ids:gpuaas=tenant"):
		var rows [][2]any
		for b, ports := range v.bridges {
			set := []any{}
			for _, p := range append([]string{b}, ports...) {
				set = append(set, []string{"uuid", "id-" + p})
			}
			var of any = []any{"set", set}
			if len(set) == 1 {
				of = set[0]
			}
			rows = append(rows, [2]any{b, of})
		}
		return json.Marshal(map[string]any{"headings": []string{"name", "ports"}, "data": rows})
	case strings.HasPrefix(line, "ovs-vsctl --format=json --columns=_uuid,name list Port"):
		rows := [][2]any{{[]string{"uuid", "id-eth0"}, "eth0"}}
		for b, ports := range v.bridges {
			for _, p := range append([]string{b}, ports...) {
				rows = append(rows, [2]any{[]string{"uuid", "id-" + p}, p})
			}
		}
		return json.Marshal(map[string]any{"data": rows})
	case line == "ip -json link show":
		var links []map[string]string
		for _, l := range append([]string{"lo", "eth0", "gtapX"}, v.links...) {
			links = append(links, map[string]string{"ifname": l})
		}
		return json.Marshal(links)
	case strings.HasPrefix(line, "ovs-vsctl --may-exist add-br"):
		v.bridges[args[4]] = nil
	case strings.HasPrefix(line, "ovs-vsctl --may-exist add-port"):
		v.bridges[last(2)] = append(v.bridges[last(2)], last(1))
	case strings.HasPrefix(line, "ovs-vsctl --if-exists del-br"):
		delete(v.bridges, last(1))
	case strings.HasPrefix(line, "ovs-vsctl --if-exists del-port"):
		v.bridges[last(2)] = slices.DeleteFunc(v.bridges[last(2)], func(p string) bool { return p == last(1) })
	case strings.HasPrefix(line, "ip tuntap add dev"):
		v.links = append(v.links, args[3])
	case strings.HasPrefix(line, "ip link delete dev"):
		v.links = slices.DeleteFunc(v.links, func(l string) bool { return l == last(1) })
	case strings.HasPrefix(line, "ovs-ofctl"):
		b, err := os.ReadFile(last(1))
		if err != nil {
			return nil, err
		}
		bridge := strings.TrimSuffix(last(2)[strings.LastIndex(last(2), "/")+1:], ".mgmt")
		for line := range strings.Lines(string(b)) {
			for _, word := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(",=:\n", r) }) {
				if ourTap.MatchString(word) && !slices.Contains(v.bridges[bridge], word) {
					return nil, fmt.Errorf("no port %s on %s", word, bridge)
				}
			}
		}
		v.guarded[bridge] = string(b)
	case strings.HasPrefix(line, "ip link set"), name == "sysctl", strings.HasPrefix(line, "ip address replace"):
	default:
		v.t.Errorf("who knows %q?", line)
	}
	v.ran = append(v.ran, line)
	return nil, nil
}

func newVSwitch(t *testing.T) (*vswitch, OpenVSwitch) {
	v := &vswitch{t: t, dir: t.TempDir(), bridges: map[string][]string{}, guarded: map[string]string{}}
	return v, OpenVSwitch{Run: v.run, Dir: v.dir, RunDir: "/ovs"}
}

func bridge(subnet int, ports ...Port) Bridge {
	for i := range ports {
		ports[i].Subnet, ports[i].Plugged = subnet, true
	}
	return Bridge{Name: bridgeName(subnet), MAC: gatewayMAC(subnet), Addresses: []string{gateway(subnet) + "/24"}, Ports: ports}
}

func (v *vswitch) wantRan(what string, want ...string) {
	v.t.Helper()
	if diff := cmp.Diff(want, v.ran); diff != "" {
		v.t.Errorf("%s ran (-want +got):\n%s", what, diff)
	}
	v.ran = nil
}

func TestOpenVSwitch(t *testing.T) {
	t.Parallel()
	v, o := newVSwitch(t)
	apply := func(want ...Bridge) {
		t.Helper()
		if err := o.Apply(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	guard := func(b string) string {
		return "ovs-ofctl --timeout=10 -O OpenFlow14 --bundle replace-flows unix:/ovs/" + b + ".mgmt DIR/" + b + ".flows"
	}
	red, blue := bridge(0, port("a", "red", 0), port("b", "red", 1)), bridge(1, port("c", "blue", 2))

	apply(red)
	v.wantRan("the first",
		`ovs-vsctl --may-exist add-br gbr0 -- set Bridge gbr0 fail_mode=secure datapath_type=system other_config:hwaddr="06:67:70:75:00:00" external_ids:gpuaas=tenant`,
		"ip tuntap add dev gtap0 mode tap", "sysctl -q -w net.ipv4.conf.gtap0.arp_ignore=8", "ip link set dev gtap0 up", "ovs-vsctl --may-exist add-port gbr0 gtap0",
		"ip tuntap add dev gtap1 mode tap", "sysctl -q -w net.ipv4.conf.gtap1.arp_ignore=8", "ip link set dev gtap1 up", "ovs-vsctl --may-exist add-port gbr0 gtap1",
		guard("gbr0"), "ip address replace 10.77.0.1/24 dev gbr0", "ip link set dev gbr0 up")
	apply(red)
	v.wantRan("the same again",
		"sysctl -q -w net.ipv4.conf.gtap0.arp_ignore=8", "ip link set dev gtap0 up",
		"sysctl -q -w net.ipv4.conf.gtap1.arp_ignore=8", "ip link set dev gtap1 up",
		guard("gbr0"), "ip address replace 10.77.0.1/24 dev gbr0", "ip link set dev gbr0 up")

	// The flows of a port that goes are gone before its number is free.
	red.Ports = red.Ports[1:]
	apply(red, blue)
	if want := []string{guard("gbr0"), "ovs-vsctl --if-exists del-port gbr0 gtap0", "ip link delete dev gtap0"}; !slices.Equal(want, v.ran[:3]) {
		t.Errorf("ran %q, want %q", v.ran, want)
	}
	if strings.Contains(v.guarded["gbr0"], "gtap0") {
		t.Error("flows of a port that is gone")
	}
	v.ran = nil
	apply()
	v.wantRan("the end", "ovs-vsctl --if-exists del-br gbr0", "ovs-vsctl --if-exists del-br gbr1", "ip link delete dev gtap1", "ip link delete dev gtap2")
	if len(v.bridges) != 0 || len(v.links) != 0 {
		t.Errorf("left over: %v, %v", v.bridges, v.links)
	}
}

// TestOpenVSwitchRepeats: whatever step fails or is the last one before a crash,
// the next Apply gives the same end; and what a host found after a reboot (ports in
// the database, taps gone; or the other way round) is mended.
func TestOpenVSwitchRepeats(t *testing.T) {
	t.Parallel()
	before := []Bridge{bridge(0, port("a", "red", 0)), bridge(1, port("b", "blue", 1), port("d", "blue", 3))}
	after := []Bridge{bridge(0, port("b", "red", 1), port("c", "red", 2)), bridge(2, port("a", "green", 0))}
	same := func(v *vswitch, what string) {
		t.Helper()
		slices.Sort(v.links)
		ports := map[string][]string{}
		for b, p := range v.bridges {
			ports[b] = slices.Sorted(slices.Values(p))
		}
		want := map[string][]string{"gbr0": {"gtap1", "gtap2"}, "gbr2": {"gtap0"}}
		if diff := cmp.Diff(want, ports); diff != "" || !slices.Equal(v.links, []string{"gtap0", "gtap1", "gtap2"}) {
			t.Errorf("%s: links %v, ports\n%s", what, v.links, diff)
		}
		if v.guarded["gbr0"] != flows(after[0]) || v.guarded["gbr2"] != flows(after[1]) {
			t.Errorf("%s: other flows", what)
		}
	}
	for _, fail := range []string{"find Bridge", "list Port", "link show", "del-br", "del-port", "link delete", "add-br", "tuntap add dev gtap2", "add-port gbr0 gtap2", "add-port gbr0 gtap1", "replace-flows", "address replace", "set dev gbr2 up"} {
		v, o := newVSwitch(t)
		if err := o.Apply(t.Context(), before); err != nil {
			t.Fatal(err)
		}
		v.fail = fail
		if err := o.Apply(t.Context(), after); err == nil {
			t.Errorf("%s: the failure was swallowed", fail)
		}
		v.fail = ""
		if err := o.Apply(t.Context(), after); err != nil {
			t.Errorf("%s: %v", fail, err)
		}
		same(v, fail)
	}
	for what, damage := range map[string]func(*vswitch){
		"taps gone":        func(v *vswitch) { v.links = nil },
		"a database anew":  func(v *vswitch) { v.bridges = map[string][]string{} },
		"a foreign port":   func(v *vswitch) { v.bridges["gbr0"] = append(v.bridges["gbr0"], "eth1") },
		"a stray tap":      func(v *vswitch) { v.links = append(v.links, "gtap77") },
		"a bridge of ours": func(v *vswitch) { v.bridges["gbr9"] = []string{"gtap5"}; v.links = append(v.links, "gtap5") },
	} {
		v, o := newVSwitch(t)
		if err := o.Apply(t.Context(), after); err != nil {
			t.Fatal(err)
		}
		damage(v)
		if err := o.Apply(t.Context(), after); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		same(v, what)
	}
}

func TestFlows(t *testing.T) {
	t.Parallel()
	golden(t, "flows.txt", flows(bridge(0, port("a", "red", 0), port("b", "red", 1))))
}
