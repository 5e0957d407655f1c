package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
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
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// TestMain lets the test binary be the program itself, so that it can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("HOSTD_BE_THE_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fleet is a site with real streams, an enrolment desk, and a stand-in for the
// control plane's head.
type fleet struct {
	t          *testing.T
	site       *streamstest.Site
	placements *streams.Placements

	mu     sync.Mutex
	keys   map[domain.HostID]ed25519.PublicKey
	placed map[domain.HostID]*domain.Placement
	said   map[domain.HostID][]string
	maps   map[domain.HostID]*domain.SlotMap
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{
		t: t, site: streamstest.New(t, 1), keys: map[domain.HostID]ed25519.PublicKey{},
		placed: map[domain.HostID]*domain.Placement{}, said: map[domain.HostID][]string{}, maps: map[domain.HostID]*domain.SlotMap{},
	}
	var err error
	if f.placements, err = streams.OpenPlacements(f.site.Dial(server.Runtime), f.site.Names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.placements.Close)
	reports, err := streams.OpenReports(f.site.Dial(server.Runtime), f.site.Names)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = reports.Consume(ctx, f.take) })
	t.Cleanup(func() { cancel(); wg.Wait(); reports.Close() })
	return f
}

// desk gives every token its own host.
func (f *fleet) desk() *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Token   string `json:"token"`
			Signing []byte `json:"signing_public_key"`
			NATS    string `json:"nats_public_key"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			f.t.Error(err)
		}
		id := domain.HostID{1, in.Token[0]}
		jwt, err := f.site.Trust.HostCredential(id, in.NATS)
		if err == nil {
			err = f.placements.CreateHostConsumer(r.Context(), id)
		}
		f.mu.Lock()
		f.keys[id] = in.Signing
		f.placed[id] = &domain.Placement{Desired: domain.Desired{Site: string(f.site.Names), Epoch: 1, Host: id}}
		f.mu.Unlock()
		if err == nil {
			err = f.place(id, func(*domain.Desired) {})
		}
		if err != nil {
			f.t.Error(err)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"host_id": id, "site": f.site.Names, "nats_url": f.site.Servers[0].ClientURL(), "nats_jwt": jwt})
	}))
	f.t.Cleanup(srv.Close)
	return srv
}

// place changes a host's desired state.
func (f *fleet) place(id domain.HostID, change func(d *domain.Desired)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.placed[id]
	p.Desired.Generation++
	p.From.N++
	change(&p.Desired)
	return f.placements.Publish(context.Background(), id, domain.EncodePlacement(p))
}

// take believes what is signed, and acknowledges it in the next placement.
func (f *fleet) take(m streams.ReportMsg) error {
	s, err := domain.DecodeSignedReport(m.Data)
	if err != nil {
		f.t.Error(err)
		return nil
	}
	r, err := domain.DecodeReport(s.Report)
	if err != nil {
		f.t.Error(err)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Host != m.Host || !ed25519.Verify(f.keys[r.Host], s.Report, s.Signature) {
		f.t.Errorf("a report of %s came from %s, or was not signed by it", r.Host, m.Host)
	}
	p := f.placed[r.Host]
	if p.Journal == r.Journal && r.Number <= p.Acked {
		return nil
	}
	p.Journal, p.Acked = r.Journal, r.Number
	p.From.N++
	switch {
	case r.VM != nil:
		f.said[r.Host] = append(f.said[r.Host], fmt.Sprintf("%s %d", r.Kind, r.VM.Boot))
	case r.Inventory != nil:
		f.maps[r.Host] = r.Inventory
	default:
		f.said[r.Host] = append(f.said[r.Host], string(r.Kind))
	}
	return f.placements.Publish(context.Background(), r.Host, domain.EncodePlacement(p))
}

// process is a hostd that runs.
type process struct {
	cmd *exec.Cmd
	log *output
}

// output is what a program has printed so far.
type output struct {
	mu  sync.Mutex
	all strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe, args...), log: new(output)}
	p.cmd.Env = append(os.Environ(), "HOSTD_BE_THE_PROGRAM=1")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("hostd %v:\n%s", args, p.log)
		}
	})
	return p
}

// file lists the fleet's hosts, for hostd to enrol and run.
func (f *fleet) file() string {
	f.t.Helper()
	desk, dir := f.desk(), f.t.TempDir()
	var list []fleetHost
	for i := range hosts {
		name := string(rune('a' + i))
		list = append(list, fleetHost{Dir: filepath.Join(dir, name), Slots: 2, Server: desk.URL, Token: name + "-token"})
	}
	b, err := json.Marshal(list)
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(dir, "fleet.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f *fleet) await(what string, cond func(id domain.HostID) bool) {
	f.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for {
		f.mu.Lock()
		all := len(f.placed) == hosts
		for id := range f.placed {
			all = all && cond(id)
		}
		f.mu.Unlock()
		if all {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			f.mu.Lock()
			defer f.mu.Unlock()
			f.t.Fatalf("waited in vain for: %s; said %v", what, f.said)
		}
	}
}

func (f *fleet) placeAll(change func(d *domain.Desired)) {
	f.t.Helper()
	for i := range hosts {
		if err := f.place(domain.HostID{1, byte('a' + i)}, change); err != nil {
			f.t.Fatal(err)
		}
	}
}

const hosts = 3

// Hosts enrol themselves, their tenants' VMs come up, the process is killed, and the
// next one goes on as if nothing had been.
func TestFleetSurvivesKill(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	args := []string{"run", "--machine", "sim", "--fleet", f.file()}

	first := start(t, args...)
	f.await("slot maps", func(id domain.HostID) bool { return f.maps[id] != nil })
	f.placeAll(func(d *domain.Desired) {
		d.SlotMap = f.maps[d.Host].Digest()
		d.Wipes = []domain.PlacedWipe{{Lease: domain.Lease{Slot: domain.SlotID{1}, Index: 0, Nonce: domain.Digest{2}}, Attempt: 1, Policy: domain.WipeAuto}}
	})
	f.await("first wipes", func(id domain.HostID) bool { return slices.Contains(f.said[id], "wiped") })
	f.placeAll(func(d *domain.Desired) {
		d.Wipes = nil
		d.VMs = []domain.PlacedVM{{
			VM: domain.VMID{d.Host[1]}, Hostname: "trainer", Power: domain.PowerOn, Boot: 1, MAC: "52:54:00:00:00:01",
			Leases: []domain.Lease{{Slot: domain.SlotID{1}, Index: 0, Generation: 1, Nonce: domain.Digest{1}}},
		}}
	})
	f.await("ready guests", func(id domain.HostID) bool {
		return strings.Contains(strings.Join(f.said[id], ","), "started 1,alive 1,ready 1")
	})
	_ = first.cmd.Process.Kill() // -9
	_ = first.cmd.Wait()

	second := start(t, args...)
	f.placeAll(func(d *domain.Desired) { d.VMs = []domain.PlacedVM{d.VMs[0]}; d.VMs[0].Boot = 2 })
	f.await("rebooted guests", func(id domain.HostID) bool { return strings.Contains(strings.Join(f.said[id], ","), "ready 2") })
	f.placeAll(func(d *domain.Desired) {
		d.Wipes = []domain.PlacedWipe{{Lease: d.VMs[0].Leases[0], Attempt: 1, Policy: domain.WipeAuto}}
		d.VMs = nil
	})
	f.await("wiped slots", func(id domain.HostID) bool {
		return strings.HasSuffix(strings.Join(f.said[id], ","), "removed 0,wiped")
	})
	f.mu.Lock()
	for id, said := range f.said {
		if got := strings.Join(said, ","); got != "wiped,started 1,alive 1,ready 1,started 2,alive 2,ready 2,removed 0,wiped" {
			t.Errorf("%s said %s", id, got)
		}
	}
	f.mu.Unlock()

	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// A SIGHUP has every host look at its hardware again, and ends none.
func TestHangupLooksAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	p := start(t, "run", "--machine", "sim", "--log-level", "debug", "--fleet", f.file())
	looks := func() int { return strings.Count(p.log.String(), "looking at the hardware") }
	f.await("slot maps", func(id domain.HostID) bool { return f.maps[id] != nil })
	before := looks()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	f.await("another look", func(domain.HostID) bool { return looks() >= before+hosts })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("after SIGHUP and SIGTERM: %v", err)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"not enrolled":       {[]string{"run", "--machine", "sim", "--dir", "DIR"}, "not enrolled"},
		"no dir":             {[]string{"run", "--machine", "sim"}, "--dir"},
		"fleet of real ones": {[]string{"run", "--machine", "lab", "--fleet", "x"}, "simulated"},
		"no such config":     {[]string{"run", "--config", "DIR/none"}, "no such file"},
		"no server":          {[]string{"enroll", "--dir", "DIR", "--token", "t"}, "server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range tt.args {
				tt.args[i] = strings.Replace(tt.args[i], "DIR", t.TempDir(), 1)
			}
			var out strings.Builder
			err := run(t.Context(), tt.args, &out, &out)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, context.Canceled) {
				t.Errorf("err %v", err)
			}
		})
	}
}
