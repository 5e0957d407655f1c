package main_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections/pglocal"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// The size of a site on trial.
const (
	trialMembers = 3
	trialNATS    = 3
	trialHosts   = 8
	trialSlots   = 4 // a host
	trialTenants = 3
	trialName    = "trial"
	answerLimit  = 6 * time.Second // how long a client waits for one answer
)

// trial is a site of real processes with a bad network between all of them: NATS
// servers in a cluster, Postgres, control planes, and hostd with simulated hosts.
type trial struct {
	t     *testing.T
	dir   string
	trust *server.Trust

	nats     []*daemon
	postgres *postgres
	members  []*daemon
	hostd    *daemon

	release string  // the members' program, and that of tools beside them; "": gpuaas
	sites   []*site // the members, as clients see them
	tenants []tenant
	slots   []string

	toLog, toModels, toWriter, toHosts []*proxy
	natsURLs                           string // without a proxy between
}

// natsServer builds the server of the cluster: the version that go.mod names.
var natsServer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(bin, "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build nats-server: %w: %s", err, out)
	}
	return path, nil
})

func newTrial(t *testing.T) *trial {
	t.Helper()
	tr := &trial{t: t, dir: dataDir(t)}
	t.Cleanup(tr.tell)
	more := tr.startNATS()
	tr.postgres = newPostgres(t, filepath.Join(tr.dir, "pg"))
	tr.startMembers(more)
	tr.startHosts("sim: {boot: 40ms, wipe: 40ms}\n", func(args ...string) {
		tr.hostd = newDaemon(t, tr.dir, "hostd", filepath.Join(bin, "hostd"), args...)
	})
	return tr
}

// tell shows, after a failure, how each process ended.
func (tr *trial) tell() {
	if !tr.t.Failed() {
		return
	}
	for _, d := range tr.daemons() {
		tr.t.Logf("%s, started %d times, said:\n%s", d.name, d.started(), d.said(6000))
	}
}

func (tr *trial) daemons() []*daemon {
	out := append(append([]*daemon{}, tr.nats...), tr.members...)
	if tr.hostd != nil {
		out = append(out, tr.hostd)
	}
	return out
}

// startNATS starts the first server; the others, without which it has no leader and
// answers nothing, start when more is called.
func (tr *trial) startNATS() (more func()) {
	t := tr.t
	t.Helper()
	program, err := natsServer()
	if err != nil {
		t.Fatal(err)
	}
	if tr.trust, err = server.OpenTrust(filepath.Join(tr.dir, "trust"), trialName); err != nil {
		t.Fatal(err)
	}
	var routes, clients []string
	var ports [trialNATS][2]int
	for i := range ports {
		ports[i] = [2]int{streamstest.Port(t), streamstest.Port(t)}
		routes = append(routes, fmt.Sprintf("127.0.0.1:%d", ports[i][1]))
		clients = append(clients, fmt.Sprintf("127.0.0.1:%d", ports[i][0]))
	}
	tr.natsURLs = "nats://" + strings.Join(clients, ",nats://")
	var begin []func()
	for i := range ports {
		dir := filepath.Join(tr.dir, fmt.Sprintf("nats%d", i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		o := server.Options{
			Site: trialName, Trust: tr.trust, Name: fmt.Sprint("n", i), Dir: dir, Host: "127.0.0.1", Port: ports[i][0],
			Cluster: &server.Cluster{Name: trialName, Host: "127.0.0.1", Port: ports[i][1], Routes: routes},
		}
		text, err := o.ConfigFile("", "", "")
		if err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(text, "cluster {\n", "cluster {\n  no_advertise: true\n", 1) // clients know the proxies only
		config := filepath.Join(dir, "nats.conf")
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		begin = append(begin, func() {
			tr.nats = append(tr.nats, newDaemon(t, tr.dir, fmt.Sprintf("nats%d", i), program, "-c", config))
		})
		tr.toLog = append(tr.toLog, newProxy(t, "tcp", clients[i]))
		tr.toHosts = append(tr.toHosts, newProxy(t, "tcp", clients[i]))
	}
	begin[0]()
	return func() {
		for _, f := range begin[1:] {
			f()
		}
	}
}

func addresses(scheme string, proxies []*proxy) string {
	var out []string
	for _, p := range proxies {
		out = append(out, scheme+p.address())
	}
	return strings.Join(out, ",")
}

func (tr *trial) startMembers(moreNATS func()) {
	t := tr.t
	t.Helper()
	models := newProxy(t, "unix", tr.postgres.socket())
	tr.toModels = append(tr.toModels, models)
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(rand.IntN(256))
	}
	for i := range trialMembers {
		dir := filepath.Join(tr.dir, fmt.Sprintf("cp%d", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "site.secret"), secret, 0o600); err != nil {
			t.Fatal(err)
		}
		address := fmt.Sprintf("127.0.0.1:%d", streamstest.Port(t))
		way := newProxy(t, "tcp", address)
		tr.toWriter = append(tr.toWriter, way)
		client := newClient(nil)
		client.Timeout = answerLimit
		tr.sites = append(tr.sites, &site{t: t, dir: dir, base: "http://" + address, client: client})
		tr.members = append(tr.members, newDaemon(t, tr.dir, fmt.Sprintf("cp%d", i), filepath.Join(bin, "gpuaas"), append([]string{
			"serve", "--data-dir", dir, "--listen", address,
			"--advertise-url", "http://" + way.address(), "--nats-url", addresses("nats://", tr.toLog), "--replicas", fmt.Sprint(trialNATS), "--log-level", "info",
			"--database-url", "postgres://gpuaas@" + models.address() + "/models?sslmode=disable&connect_timeout=5",
		}, tr.natsFlags()...)...))
		if i == 0 { // it makes the streams and the operator, as soon as the cluster has a leader
			eventually(t, startLimit, "the first member at the first NATS server", func() error {
				return errNo(slices.ContainsFunc(tr.toLog, (*proxy).used), "no connection")
			})
			moreNATS()
			tr.ready(0)
			if n := tr.members[0].started(); n != 1 {
				t.Errorf("the first member started %d times", n)
			}
		}
	}
	for i := range tr.members {
		tr.ready(i)
	}
	key, err := os.ReadFile(filepath.Join(tr.sites[0].dir, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range tr.sites {
		s.key = strings.TrimSpace(string(key))
	}
}

func (tr *trial) natsFlags() []string {
	return []string{"--site", trialName, "--nats-creds", filepath.Join(tr.dir, "trust")}
}

// ready waits until a member serves.
func (tr *trial) ready(i int) {
	tr.t.Helper()
	eventually(tr.t, 2*startLimit, tr.members[i].name+" to be ready", func() error {
		_, ok, why := tr.role(i)
		return errNo(ok, why)
	})
}

// role is what a member says of itself.
func (tr *trial) role(i int) (role string, ready bool, why string) {
	client := &http.Client{Timeout: time.Second, Transport: tr.sites[i].client.Transport}
	res, err := client.Get(tr.sites[i].address() + "/readyz")
	if err != nil {
		return "", false, err.Error()
	}
	defer res.Body.Close()
	var r struct {
		Role string `json:"role"`
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(res.Body)
	_ = json.Unmarshal(b.Bytes(), &r)
	return r.Role, res.StatusCode == 200, b.String()
}

// writer is the member that decides, or another one when none says so.
func (tr *trial) writer() (w int) {
	for i := range tr.members {
		if role, _, _ := tr.role(i); role == "writer" {
			return i
		}
	}
	return 0
}

// startHosts racks the fleet: hosts reach NATS by proxies of their own, if there are any.
func (tr *trial) startHosts(config string, hostd func(args ...string)) {
	t := tr.t
	t.Helper()
	op := tr.sites[0].operator()
	var sku struct {
		ID string `json:"id"`
	}
	op.do(201, "POST", "/v1/skus", obj{"name": "gpu-1x", "shape": 1}).into(t, &sku)
	op.do(201, "POST", "/v1/skus/"+sku.ID+"/prices", obj{"currency": "USD", "micros_per_unit_hour": price})
	for i := range trialTenants {
		tr.tenants = append(tr.tenants, tr.sites[0].newTenant(fmt.Sprintf("acme%d", i), 1_000_000_000_000))
	}
	var fleet []obj
	var hosts []string
	for i := range trialHosts {
		dir := filepath.Join(tr.dir, "hosts", fmt.Sprint("h", i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var made struct {
			ID    string `json:"id"`
			Token string `json:"enrolment_token"`
		}
		op.do(201, "POST", "/v1/hosts", obj{"name": fmt.Sprint("h", i), "rack": fmt.Sprint("r", i%2)}).into(t, &made)
		if out, err := exec.Command(filepath.Join(bin, "hostd"), "enroll", "--server", tr.sites[0].address(), "--token", made.Token, "--dir", dir).CombinedOutput(); err != nil {
			t.Fatalf("enrol: %v: %s", err, out)
		}
		if len(tr.toHosts) > 0 {
			tr.redirect(dir)
		}
		hosts = append(hosts, made.ID)
		fleet = append(fleet, obj{"dir": dir, "slots": trialSlots, "seed": fmt.Sprint("h", i)})
	}
	b, err := json.Marshal(fleet)
	if err != nil {
		t.Fatal(err)
	}
	file, settings := filepath.Join(tr.dir, "fleet.json"), filepath.Join(tr.dir, "hostd.yaml")
	if err := errors.Join(os.WriteFile(file, b, 0o600), os.WriteFile(settings, []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	hostd("run", "--config", settings, "--machine", "sim", "--fleet", file)
	for _, h := range hosts {
		var m struct {
			Digest string `json:"proposal_digest"`
		}
		eventually(t, startLimit, "a slot map", func() error {
			a, err := op.ask("GET", "/v1/hosts/"+h+"/slot-map", nil)
			if err != nil || a.status != 200 {
				return fmt.Errorf("%v %+v", err, a)
			}
			a.into(t, &m)
			return errNo(m.Digest != "", "no proposal")
		})
		op.do(202, "POST", "/v1/hosts/"+h+"/slot-map/approve", obj{"digest": m.Digest, "wipe_policy": "auto"})
	}
	eventually(t, startLimit, "the first wipes", func() error {
		all := list[slot](op, "/v1/slots?state=available")
		tr.slots = nil
		for _, s := range all {
			tr.slots = append(tr.slots, s.ID)
		}
		return errNo(len(all) == trialHosts*trialSlots, fmt.Sprint(len(all), " available"))
	})
}

// redirect makes a host go through its own proxies.
func (tr *trial) redirect(dir string) {
	tr.t.Helper()
	file := filepath.Join(dir, "identity.json")
	b, err := os.ReadFile(file)
	if err != nil {
		tr.t.Fatal(err)
	}
	var id map[string]any
	if err := json.Unmarshal(b, &id); err != nil {
		tr.t.Fatal(err)
	}
	id["nats_url"] = addresses("nats://", tr.toHosts)
	if b, err = json.Marshal(id); err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		tr.t.Fatal(err)
	}
}

// commits reads the whole log.
func (tr *trial) commits() (out []*domain.Commit) {
	t := tr.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	l, err := streams.OpenLog(ctx, streams.LogConfig{Dial: streams.DialCreds(tr.natsURLs, tr.trust.CredsFile(server.Runtime)), Site: trialName})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Read(ctx, l.Seq(1), func(_ uint64, b []byte) error {
		c, err := domain.DecodeCommit(b)
		out = append(out, c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// tool runs gpuaas beside the site, without a proxy between.
func (tr *trial) tool(args ...string) (stdout, stderr string, code int) {
	tr.t.Helper()
	if tr.postgres == nil { // all that a site of one process needs is in its data directory
		return tool(tr.t, append(args, "--site", trialName, "--data-dir", tr.sites[0].dir)...)
	}
	u, err := url.Parse(tr.postgres.url())
	if err != nil {
		tr.t.Fatal(err)
	}
	args = append(args, "--data-dir", tr.sites[0].dir, "--nats-url", tr.natsURLs, "--replicas", fmt.Sprint(trialNATS), "--database-url", u.String())
	return toolOf(tr.t, cmp.Or(tr.release, "gpuaas"), startLimit, append(args, tr.natsFlags()...)...)
}

// postgres is a database server under a supervisor, with fsync.
type postgres struct {
	o    pglocal.Options
	name string
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	server *pglocal.Server
	starts int
	err    error
}

func newPostgres(t *testing.T, dir string) *postgres {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &postgres{o: pglocal.Options{DataDir: dir, SocketDir: dir + ".sock"}, stop: cancel, done: make(chan struct{})}
	first, err := pglocal.Start(ctx, p.o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	p.server, p.starts = first, 1
	if p.name, err = first.CreateDatabase(ctx, "models"); err != nil {
		t.Error(err)
	}
	go p.supervise(ctx, first)
	t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		cancel()
		if <-p.done; p.err != nil {
			t.Error(p.err)
		}
	})
	return p
}

func (p *postgres) supervise(ctx context.Context, now *pglocal.Server) {
	defer close(p.done)
	for { // ends with ctx
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			p.err = errors.Join(p.err, now.Stop(end))
			return
		case <-now.Done():
		}
		again, err := pglocal.Start(ctx, p.o)
		for err != nil && ctx.Err() == nil { // its backends end after it: a start beside them is refused
			again, err = pglocal.Start(ctx, p.o)
		}
		if err != nil {
			return
		}
		now = again
		p.mu.Lock()
		p.server = again
		p.starts++
		p.mu.Unlock()
	}
}

func (p *postgres) socket() string { return filepath.Join(p.o.SocketDir, ".s.PGSQL.5432") }

func (p *postgres) url() string { return p.name }

// pid is the postmaster's.
func (p *postgres) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.server.PID()
}

func (p *postgres) signal(sig syscall.Signal) bool {
	pid := p.pid()
	return pid > 0 && strings.Contains(commandLine(pid), p.o.DataDir) && syscall.Kill(pid, sig) == nil
}

func commandLine(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(b)
}

// killInCommit is kill -9 of a backend while it commits, or, when none is seen to,
// while it works. Postgres restarts all of them then.
func (p *postgres) killInCommit(within time.Duration) (what string) {
	parent, best := p.pid(), 0
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
		for _, field := range strings.Fields(string(children)) {
			var pid int
			_, _ = fmt.Sscan(field, &pid)
			title := commandLine(pid)
			if !strings.Contains(title, " models ") || strings.Contains(title, "idle\x00") || strings.HasSuffix(strings.TrimRight(title, "\x00 "), " idle") {
				continue
			}
			best = pid
			if strings.Contains(title, "COMMIT") && syscall.Kill(pid, syscall.SIGKILL) == nil {
				return "commit"
			}
		}
	}
	if best != 0 && syscall.Kill(best, syscall.SIGKILL) == nil {
		return "work"
	}
	return ""
}
