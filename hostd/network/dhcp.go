package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// leaseTime is how long a DHCP lease lasts. A lease's end minus this is when the
// guest last asked: its sign of life.
const leaseTime = time.Hour

// Lease is what dnsmasq gave to a guest.
type Lease struct {
	Address string
	At      time.Time // when it was given or renewed, to the second
}

// Leases reads the lease file: the last lease of each port, by MAC.
func (n *Network) Leases() (map[string]Lease, error) {
	b, err := os.ReadFile(n.path("leases"))
	if errors.Is(err, os.ErrNotExist) {
		return map[string]Lease{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	return parseLeases(b), nil
}

// parseLeases reads dnsmasq's lease file: expiry, MAC, address, name, client id.
// Lines that are not that (a file seen while it is written) are passed over.
func parseLeases(b []byte) map[string]Lease {
	leases := map[string]Lease{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 5 || !strings.HasSuffix(line, "\n") {
			continue
		}
		end, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			continue
		}
		leases[f[1]] = Lease{Address: f[2], At: time.Unix(end, 0).Add(-leaseTime)}
	}
	return leases
}

// hosts renders dnsmasq's dhcp-hostsfile.
func hosts(ports []Port) []byte {
	var b bytes.Buffer
	for _, p := range ports {
		fmt.Fprintf(&b, "%s,%s", p.MAC, p.Address())
		if p.Hostname != "" {
			fmt.Fprintf(&b, ",%s", p.Hostname)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// applyDHCP has dnsmasq serve the wanted ports and no others. A new port is a new
// line and a signal; a lease that must go needs a restart, because dnsmasq keeps
// leases in memory and would refuse the address to the next guest.
func (n *Network) applyDHCP(ctx context.Context) error {
	if err := n.write("hosts", hosts(n.ports)); err != nil {
		return err
	}
	keep, stale, err := n.staleLeases()
	if err != nil {
		return err
	}
	pid := n.dnsmasq()
	if pid != 0 && !stale {
		if err := syscall.Kill(pid, syscall.SIGHUP); err == nil {
			return nil
		}
	}
	if err := n.stopDNSMasq(ctx); err != nil {
		return err
	}
	if stale {
		if err := n.write("leases", keep); err != nil {
			return err
		}
	}
	if _, err := n.run(ctx, "dnsmasq", n.arguments()...); err != nil {
		return fmt.Errorf("network: dnsmasq: %w", err)
	}
	return nil
}

// staleLeases returns the lease file without the leases of ports that are gone,
// and whether there were any.
func (n *Network) staleLeases() (keep []byte, stale bool, err error) {
	b, err := os.ReadFile(n.path("leases"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("network: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		wanted := false
		for _, p := range n.ports {
			wanted = wanted || len(f) > 2 && f[1] == p.MAC && f[2] == p.Address()
		}
		if wanted {
			keep = append(keep, line...)
		} else {
			stale = true
		}
	}
	return keep, stale, nil
}

// arguments start dnsmasq as a daemon: DHCP only, on our bridges only.
func (n *Network) arguments() []string {
	a := []string{
		"--conf-file=/dev/null", "--user=root", "--port=0",
		"--interface=gbr*", "--except-interface=lo", "--bind-dynamic",
		"--dhcp-authoritative", "--no-ping",
		"--dhcp-hostsfile=" + n.path("hosts"),
		"--dhcp-leasefile=" + n.path("leases"),
		"--pid-file=" + n.path("dnsmasq.pid"),
		"--log-facility=" + n.path("dnsmasq.log"),
	}
	for i := range maxSubnets {
		a = append(a, fmt.Sprintf("--dhcp-range=10.77.%d.0,static,255.255.255.0,%d", i, int(leaseTime.Seconds())))
	}
	return a
}

// Running says whether dnsmasq runs and the bridges are as they were made (Open
// vSwitch's daemon starts without flows, and passes nothing without); if not,
// [Network.Start] mends it.
func (n *Network) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dnsmasq() != 0 && n.bridges.Epoch() == n.epoch
}

// dnsmasq is the pid of our dnsmasq, 0 if it does not run. The command line is
// looked at because a pid file outlives its process and pids are used again.
func (n *Network) dnsmasq() int {
	b, err := os.ReadFile(n.path("dnsmasq.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0
	}
	cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmd, []byte("--pid-file="+n.path("dnsmasq.pid"))) {
		return 0
	}
	return pid
}

// stopDNSMasq ends our dnsmasq and waits until it is gone.
func (n *Network) stopDNSMasq(ctx context.Context) error {
	for i := 0; ; i++ { // ends when it is gone or ctx is over
		pid := n.dnsmasq()
		if pid == 0 {
			return nil
		}
		sig := syscall.SIGTERM
		if i > 100 {
			sig = syscall.SIGKILL
		}
		_ = syscall.Kill(pid, sig)
		select {
		case <-ctx.Done():
			return fmt.Errorf("network: dnsmasq %d does not end: %w", pid, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends dnsmasq. Bridges and rules go with the namespace.
func (n *Network) Stop(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopDNSMasq(ctx)
}
