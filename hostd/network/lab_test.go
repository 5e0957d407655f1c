//go:build lab

package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/gpuaas/gpuaas/hostd/metadata"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// site is a network namespace with Open vSwitch's daemons (datapath in user space,
// which every kernel can do), an uplink behind which a server answers, and guests
// that are namespaces of their own behind the ports.
type site struct {
	t   *testing.T
	dir string
	pid int
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, no traffic was seen: network namespaces need root")
	}
	if missing := program.Missing("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "dnsmasq", "nft", "ip", "ping", "udhcpc", "ethtool", "nsenter", "unshare"); len(missing) > 0 {
		t.Skipf("SKIPPED, no traffic was seen: %v missing (deploy/lab/packages.txt)", missing)
	}
	s := &site{t: t, dir: t.TempDir()}
	holder := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec",
		`mount -t tmpfs tmpfs /run; mkdir /run/netns; mount -t sysfs sysfs /sys; ip link set lo up; echo up > "$1"; exec sleep 600`, "sh", s.path("up"))
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = holder.Process.Pid
	t.Cleanup(func() {
		for _, name := range []string{"ovs-vswitchd.pid", "ovsdb.pid"} {
			s.kill(name)
		}
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	s.await("the namespace", func() bool { _, err := os.Stat(s.path("up")); return err == nil })
	s.must("ovsdb-tool", "create", s.path("conf.db"), "/usr/share/openvswitch/vswitch.ovsschema")
	s.must("ovsdb-server", s.path("conf.db"), "--remote=punix:"+s.path("db.sock"), "--pidfile="+s.path("ovsdb.pid"), "--unixctl="+s.path("ovsdb.ctl"), "--log-file="+s.path("ovsdb.log"), "--detach")
	s.must("ovs-vsctl", "--db=unix:"+s.path("db.sock"), "--no-wait", "init")
	s.vswitchd()
	s.must("ip", "netns", "add", "up")
	s.must("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", "up")
	for _, line := range []string{
		"ip address add 192.0.2.1/24 dev uplink", "ip address add 203.0.113.1/32 dev lo", "ip link set uplink up",
		"ip -n up address add 192.0.2.9/24 dev eth0", "ip -n up address add 198.51.100.9/32 dev eth0", "ip -n up link set eth0 up",
		"ip route add 198.51.100.0/24 via 192.0.2.9",
	} {
		s.must("sh", "-c", line)
	}
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) vswitchd() {
	s.t.Helper()
	s.must("env", "OVS_RUNDIR="+s.dir, "ovs-vswitchd", "unix:"+s.path("db.sock"), "--pidfile="+s.path("ovs-vswitchd.pid"), "--unixctl="+s.path("vswitchd.ctl"), "--log-file="+s.path("vswitchd.log"), "--disable-system", "--detach")
}

// kill ends the process of a pid file and waits until it is gone.
func (s *site) kill(name string) {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	s.await(name+" to end", func() bool { return syscall.Kill(pid, 0) != nil })
	_ = os.Remove(s.path(name))
}

func (s *site) await(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited for %s in vain", what)
		}
	}
}

// run is the Run of this namespace.
func (s *site) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	return program.Execute(ctx, "nsenter", append([]string{"--target", strconv.Itoa(s.pid), "--net", "--mount", "--", name}, args...)...)
}

func (s *site) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := s.run(ctx, name, args...)
	return string(out), err
}

func (s *site) must(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

// guest makes a guest: its end of the port is eth0.
func (s *site) guest(p Port) {
	s.t.Helper()
	s.must("ip", "netns", "add", p.VM)
	s.must("ip", "link", "add", p.Tap(), "type", "veth", "peer", "name", "eth0", "address", p.MAC, "netns", p.VM)
	s.must("ip", "-n", p.VM, "link", "set", "eth0", "up")
	s.must("ip", "netns", "exec", p.VM, "ethtool", "-K", "eth0", "tx", "off") // nobody would make the checksums
}

// lease has the guest ask for its address.
func (s *site) lease(vm string) string {
	s.t.Helper()
	script := s.path("udhcpc.sh")
	text := "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip address add $ip/24 dev $interface\nip route add default via $router\necho LEASE $ip\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		s.t.Fatal(err)
	}
	out := s.must("ip", "netns", "exec", vm, "udhcpc", "-i", "eth0", "-q", "-n", "-t", "5", "-T", "2", "-s", script)
	_, rest, _ := strings.Cut(out, "LEASE ")
	address, _, _ := strings.Cut(rest, "\n")
	return address
}

// reaches pings; args come before the address.
func (s *site) reaches(vm, address string, args ...string) bool {
	_, err := s.try("ip", append(append([]string{"netns", "exec", vm, "ping", "-c", "3", "-i", "0.2", "-W", "1"}, args...), address)...)
	return err == nil
}

func (s *site) want(vm, address string, want bool, why string, args ...string) {
	s.t.Helper()
	if got := s.reaches(vm, address, args...); got != want {
		s.t.Errorf("%s: %s reaches %s: %v", why, vm, address, got)
	}
}

func TestLabOpenVSwitch(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	o := OpenVSwitch{Run: s.run, Dir: s.dir, RunDir: s.dir, Datapath: "netdev"}
	open := func() *Network {
		n, err := New(s.dir, s.run, o, Options{Shared: true, Metadata: true, Closed: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(ctx); err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	defer func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	guests := []Port{port("red0", "red", 0), port("red1", "red", 1), port("blue0", "blue", 2)}
	for i, p := range guests {
		s.guest(p)
		got, err := n.Attach(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		guests[i] = got
		if address := s.lease(p.VM); address != got.Address() {
			t.Fatalf("%s leased %q, want %s", p.VM, address, got.Address())
		}
	}
	red, blue := guests[0], guests[2]
	if leases, err := n.Leases(); err != nil || leases[red.MAC].Address != "10.77.0.10" || leases[blue.MAC].Address != "10.77.1.12" {
		t.Errorf("leases: %v, %v", leases, err)
	}

	s.want("red0", "10.77.0.1", true, "its gateway")
	s.want("red0", guests[1].Address(), true, "a VM of its tenant")
	s.want("red0", "192.0.2.9", true, "the world, through NAT")
	s.want("blue0", "192.0.2.9", true, "the world, through NAT")
	s.want("red0", blue.Address(), false, "another tenant")
	s.want("blue0", red.Address(), false, "another tenant")
	s.want("red0", "10.77.1.1", false, "another tenant's gateway")
	s.want("red0", "203.0.113.1", false, "the host's own address")
	s.want("red0", "192.0.2.1", false, "the host's own address outside")
	if _, err := s.try("ping", "-c", "1", "-W", "2", "198.51.100.9"); err != nil {
		t.Errorf("the closed network is not even there: %v", err)
	}
	s.want("red0", "198.51.100.9", false, "the management network")

	s.metadata(n, guests)

	s.spoofing(red, guests[1])

	// The daemon that forgot its flows passes nothing; Start mends it.
	s.kill("ovs-vswitchd.pid")
	s.vswitchd()
	s.want("red0", "10.77.0.1", false, "a switch without flows")
	if n.Running() {
		t.Error("nobody notices that the flows are lost")
	}
	s.must("ip", "tuntap", "add", "dev", "gtap99", "mode", "tap")
	n = open() // as after a restart of hostd
	if !n.Running() {
		t.Error("the network is not said to be whole")
	}
	s.await("the network to be mended", func() bool { return s.reaches("red0", "10.77.0.1") })
	s.want("red0", blue.Address(), false, "another tenant, after the restart")
	if _, err := s.try("ip", "link", "show", "dev", "gtap99"); err == nil {
		t.Error("a stray tap was left over")
	}

	for _, p := range guests {
		if err := n.Detach(ctx, p.VM); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := o.bridges(ctx); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if links := s.must("ip", "-br", "link", "show"); strings.Contains(links, "gtap") || strings.Contains(links, "gbr") {
		t.Errorf("left over:\n%s", links)
	}
}

// spoofing: what a guest sends arrives at its neighbour, whether or not anything
// would come back, only with its own MAC and address.
func (s *site) spoofing(from, to Port) {
	s.t.Helper()
	var l net.PacketConn
	if err := s.in(to.VM, func() (err error) { l, err = net.ListenPacket("udp4", ":9"); return err }); err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	// Neither has to ask for the other.
	s.must("ip", "-n", from.VM, "neigh", "replace", to.Address(), "lladdr", to.MAC, "dev", "eth0")
	arrives := func(source string) bool {
		s.t.Helper()
		err := s.in(from.VM, func() error {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}, Control: func(_, _ string, raw syscall.RawConn) (err error) {
				_ = raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_TRANSPARENT, 1) })
				return err
			}}
			c, err := d.Dial("udp4", to.Address()+":9")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(source))
			return err
		})
		if err != nil {
			s.t.Fatalf("nothing was sent from %s: %v", source, err)
		}
		_ = l.SetReadDeadline(time.Now().Add(time.Second))
		b := make([]byte, 64)
		n, _, err := l.ReadFrom(b)
		if err == nil && string(b[:n]) != source {
			s.t.Errorf("%q arrived, not %q", b[:n], source)
		}
		return err == nil
	}
	mac := func(mac string) {
		s.must("ip", "-n", from.VM, "link", "set", "eth0", "address", mac)
		s.must("ip", "-n", from.VM, "neigh", "replace", to.Address(), "lladdr", to.MAC, "dev", "eth0")
	}
	for _, c := range []struct {
		mac, source string
		want        bool
	}{
		{from.MAC, from.Address(), true},
		{from.MAC, "10.77.0.99", false},
		{from.MAC, "10.77.0.1", false},
		{"02:00:00:00:00:77", from.Address(), false},
		{to.MAC, from.Address(), false},
		{from.MAC, from.Address(), true},
	} {
		mac(c.mac)
		if got := arrives(c.source); got != c.want {
			s.t.Errorf("what %s sends as %s, %s arrives: %v", from.VM, c.mac, c.source, got)
		}
	}
	s.must("ip", "-n", from.VM, "neigh", "flush", "dev", "eth0")
}

// in runs f on a thread in a namespace: a guest's, or the site's own ("").
func (s *site) in(vm string, f func() error) error {
	s.t.Helper()
	path := fmt.Sprintf("/proc/%d/ns/net", s.pid)
	if vm != "" {
		path = fmt.Sprintf("/proc/%d/root/run/netns/%s", s.pid, vm)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			if err = netns.Set(ns); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// dial connects from a guest; replies with fewer hops left than minTTL are not
// heard (ip(7), IP_MINTTL).
func (s *site) dial(vm, address string, minTTL int) (c net.Conn, err error) {
	s.t.Helper()
	d := net.Dialer{Timeout: 2 * time.Second, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, 21, minTTL) })
		return err
	}}
	err = s.in(vm, func() (err error) { c, err = d.Dial("tcp4", address); return err })
	return c, err
}

// metadata: each guest is told of itself by the real service, by no header of its
// own, and other services of the host are out of reach.
func (s *site) metadata(n *Network, guests []Port) {
	s.t.Helper()
	m, err := metadata.New(metadata.Options{
		Sockets: metadata.Devices{Namespace: func() (int, error) { return s.pid, nil }},
		Guest: func(_ context.Context, bridge string, source netip.Addr) (metadata.Guest, bool) {
			p, ok := n.Find(bridge, source)
			return metadata.Guest{VM: p.VM}, ok
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer m.Close()
	if err := m.Apply(n.Interfaces()); err != nil {
		s.t.Fatal(err)
	}
	for _, p := range guests {
		c, err := s.dial(p.VM, MetadataAddress+":80", 1)
		if err != nil {
			s.t.Errorf("%s: %v", p.VM, err)
			continue
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
		get := func(method, path, header, value string) string {
			req, err := http.NewRequest(method, "http://"+MetadataAddress+path, nil)
			if err != nil {
				s.t.Fatal(err)
			}
			req.Header.Set(header, value)
			resp, err := client.Do(req)
			if err != nil {
				s.t.Fatal(err)
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			return string(b)
		}
		token := get("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
		if id := get("GET", "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token", token); id != p.VM {
			s.t.Errorf("%s is told it is %q", p.VM, id)
		}
	}
	if c, err := s.dial("red0", MetadataAddress+":80", 2); err == nil {
		c.Close()
		s.t.Error("replies reach further than one hop")
	}
	var l net.Listener
	if err := s.in("", func() (err error) { l, err = net.Listen("tcp4", ":22"); return err }); err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	for _, address := range []string{"10.77.0.1:22", MetadataAddress + ":22", "203.0.113.1:22"} {
		var c net.Conn
		if err := s.in("", func() (err error) { c, err = net.Dial("tcp4", address); return err }); err != nil {
			s.t.Errorf("nobody listens at %s: %v", address, err)
		} else {
			c.Close()
		}
		if c, err := s.dial("red0", address, 0); err == nil {
			c.Close()
			s.t.Errorf("a guest reaches %s", address)
		}
	}
}
