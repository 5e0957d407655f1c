package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/program"
)

//go:embed namespace.sh
var namespaceScript []byte

// consoleFileBytes is the size at which virtlogd begins a new file of a console.
const consoleFileBytes = 512 << 10

// libvirtd's configuration. With another user than root each define takes most of
// a minute, while capabilities are probed again; the rest switches off what needs
// a system around it (cgroups, security driver, D-Bus is absent anyway).
var configuration = map[string]string{
	"libvirtd.conf": `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_level = 3
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
`,
	"qemu.conf": `user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "logd"
`,
	// The serial consoles: at most 3 files of 512 KiB for each VM.
	"virtlogd.conf": fmt.Sprintf(`max_size = %d
max_backups = 2
log_level = 3
log_outputs = "3:file:/var/log/libvirt/virtlogd.log"
`, consoleFileBytes),
}

// daemons are the processes the lab needs beside QEMU: one that holds the
// namespaces, virtlogd (bounds the consoles' logs, also while hostd is away) and
// libvirtd. All live in sessions of their own and outlive hostd; an environment
// variable with the lab's folder tells ours from others.
type daemons struct {
	dir string // absolute: DIR/lv
	run program.Run
}

func (d *daemons) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

func (d *daemons) mark() string { return "GPUAAS_LAB=" + d.dir }

// ensure starts what does not run. It is repeated whenever libvirtd does not answer.
func (d *daemons) ensure(ctx context.Context) error {
	if err := d.configure(); err != nil {
		return err
	}
	if d.namespace() == 0 {
		_ = os.Remove(d.path("namespace.pid"))
		if _, err := d.run(ctx, "env", d.mark(), "unshare", "--net", "--mount", "--propagation", "private",
			"setsid", "--fork", "sh", d.path("namespace.sh"), d.dir); err != nil {
			return fmt.Errorf("lab: namespace: %w", err)
		}
		if err := wait(ctx, 10*time.Second, func() bool { return d.namespace() != 0 }); err != nil {
			b, _ := os.ReadFile(d.path("namespace.log"))
			return fmt.Errorf("lab: namespace: %w: %s", err, program.LastWords(string(b)))
		}
	}
	for _, name := range []string{"virtlogd", "libvirtd"} {
		if d.pid("run", name+".pid") != 0 {
			continue
		}
		_ = os.Remove(d.path("run", name+".pid"))
		if _, err := d.inside(ctx, name, "-d", "-f", "/etc/libvirt/"+name+".conf", "-p", "/run/libvirt/"+name+".pid"); err != nil {
			return fmt.Errorf("lab: %s: %w", name, err)
		}
		sock := map[string]string{"virtlogd": "virtlogd-sock", "libvirtd": "libvirt-sock"}[name]
		if err := wait(ctx, 20*time.Second, func() bool { c, err := d.dial(ctx, sock); return err == nil && c.Close() == nil }); err != nil {
			return fmt.Errorf("lab: %s does not listen: %w", name, err)
		}
	}
	return nil
}

// configure writes the configuration where the namespace will see it.
func (d *daemons) configure() error {
	for _, sub := range []string{"etc/qemu/networks", "run/gpuaas", "lib", "log", "cache"} {
		if err := os.MkdirAll(d.path(sub), 0o700); err != nil {
			return fmt.Errorf("lab: %w", err)
		}
	}
	if err := durable.WriteFile(d.path("namespace.sh"), namespaceScript); err != nil {
		return err
	}
	for name, text := range configuration {
		if err := durable.WriteFile(d.path("etc", name), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// inside runs a program in the namespaces.
func (d *daemons) inside(ctx context.Context, name string, args ...string) ([]byte, error) {
	pid, err := d.holder()
	if err != nil {
		return nil, err
	}
	return d.run(ctx, "env", append([]string{d.mark(), "nsenter", "--target", strconv.Itoa(pid), "--net", "--mount", "--", name}, args...)...)
}

// holder is namespace, or why there is none.
func (d *daemons) holder() (int, error) {
	if pid := d.namespace(); pid != 0 {
		return pid, nil
	}
	return 0, errors.New("lab: the namespaces are gone")
}

// namespace is a process whose namespaces are the lab's: the holder, or whoever is
// left of the others. 0: there is none.
func (d *daemons) namespace() int {
	for _, p := range []string{"namespace.pid", "run/libvirtd.pid", "run/virtlogd.pid"} {
		if pid := d.pid(p); pid != 0 {
			return pid
		}
	}
	return 0
}

// pid reads a pid file and returns the pid if that process is ours and alive.
func (d *daemons) pid(elem ...string) int {
	b, err := os.ReadFile(d.path(elem...))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+d.mark()+"\x00")) {
		return 0
	}
	return pid
}

// dial connects to a socket below run. The path goes through /proc/self/fd because
// a socket's path has at most 107 bytes and DIR may be longer.
func (d *daemons) dial(ctx context.Context, name string) (net.Conn, error) {
	f, err := os.Open(d.path("run"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name))
}

// stop ends every process in the lab's network namespace, and with them the
// namespaces and all that is in them.
func (d *daemons) stop(ctx context.Context) error {
	ns := d.namespace()
	if ns == 0 {
		return nil
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", ns))
	if own, err2 := os.Readlink("/proc/self/ns/net"); err != nil || err2 != nil || own == link {
		return fmt.Errorf("lab: cannot tell the lab's namespace from our own: %w", errors.Join(err, err2))
	}
	sig := syscall.SIGTERM
	since := time.Now()
	for { // ends when nobody is left or ctx is over
		left := inNamespace(link)
		if len(left) == 0 {
			return nil
		}
		if time.Since(since) > 3*time.Second {
			sig = syscall.SIGKILL
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, sig)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab: processes %v do not end: %w", left, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// inNamespace lists the processes whose network namespace is link.
func inNamespace(link string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if l, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && l == link {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wait looks every 20 ms until ok, at most for limit.
func wait(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !ok() { // ends with ctx
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
