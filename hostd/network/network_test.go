package network

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fake records what is run and has the bridges.
type fake struct {
	dir     string
	ran     []string
	bridges []string
	plugs   bool
	fail    string
}

func (f *fake) run(_ context.Context, name string, args ...string) ([]byte, error) {
	line := name + " " + strings.ReplaceAll(strings.Join(args, " "), f.dir, "DIR")
	if f.fail != "" && strings.Contains(line, f.fail) {
		return nil, errors.New("scripted failure")
	}
	if name == "dnsmasq" {
		line = "dnsmasq"
	}
	if name == "sysctl" {
		return nil, nil
	}
	f.ran = append(f.ran, line)
	return nil, nil
}

func (f *fake) Plugs() bool { return f.plugs }

func (f *fake) Epoch() string { return "" }

func (f *fake) Apply(_ context.Context, want []Bridge) error {
	var have []string
	for _, b := range want {
		line := b.Name + " " + strings.Join(b.Addresses, " ")
		for _, p := range b.Ports {
			line += " " + p.Tap()
		}
		have = append(have, line)
	}
	if !slices.Equal(have, f.bridges) {
		f.ran = append(f.ran, "bridges "+strings.Join(have, ", "))
	}
	f.bridges = have
	return nil
}

func (f *fake) took() []string {
	r := f.ran
	f.ran = nil
	return r
}

func newFake(t *testing.T) (*Network, *fake) {
	t.Helper()
	f := &fake{dir: t.TempDir()}
	n, err := New(f.dir, f.run, f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return n, f
}

func port(vm, tenant string, slot uint32) Port {
	return Port{VM: vm, Tenant: tenant, Slot: slot, MAC: "02:00:00:00:00:1" + string(rune('0'+slot)), Hostname: "h-" + vm}
}

func wantRan(t *testing.T, f *fake, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, f.took()); diff != "" {
		t.Errorf("ran (-want +got):\n%s", diff)
	}
}

func TestAttachAndDetach(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	n, f := newFake(t)
	a, err := n.Attach(ctx, port("a", "red", 0))
	if err != nil || a.Address() != "10.77.0.10" || a.Bridge() != "gbr0" || a.Tap() != "gtap0" {
		t.Fatalf("%+v, %v", a, err)
	}
	wantRan(t, f, "nft -f DIR/rules.nft", "bridges gbr0 10.77.0.1/24 gtap0", "dnsmasq")

	// The same tenant shares the bridge, another gets its own.
	b, err := n.Attach(ctx, port("b", "red", 1))
	if err != nil || b.Address() != "10.77.0.11" || b.Bridge() != "gbr0" {
		t.Fatalf("%+v, %v", b, err)
	}
	f.took()
	c, err := n.Attach(ctx, port("c", "blue", 2))
	if err != nil || c.Address() != "10.77.1.12" || c.Bridge() != "gbr1" {
		t.Fatalf("%+v, %v", c, err)
	}
	f.took()

	// Again, by a process that knows only the file: the same port.
	n, err = New(f.dir, f.run, f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.Attach(ctx, port("c", "blue", 2))
	if err != nil || again != c {
		t.Fatalf("%+v, %v", again, err)
	}
	wantRan(t, f, "nft -f DIR/rules.nft", "dnsmasq")

	for _, bad := range []Port{port("d", "green", 2), {VM: "d", Tenant: "green", Slot: 3, MAC: c.MAC}, {VM: "d", Tenant: "t", Slot: 3, MAC: "x"}, {VM: "d", Tenant: "t", Slot: 3, MAC: "02:00:00:00:00:13", Hostname: "a,set:x"}} {
		if _, err := n.Attach(ctx, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}

	// The tenant's bridge goes with its last port.
	if err := n.Detach(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	wantRan(t, f, "nft -f DIR/rules.nft", "bridges gbr0 10.77.0.1/24 gtap1, gbr1 10.77.1.1/24 gtap2", "dnsmasq")
	if err := n.Detach(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	wantRan(t, f, "nft -f DIR/rules.nft", "bridges gbr1 10.77.1.1/24 gtap2", "dnsmasq")
	if err := n.Detach(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	wantRan(t, f)
	if _, ok := n.Port("c"); !ok {
		t.Error("c lost its port")
	}
}

// TestRepeatAfterFailure: what failed halfway is finished by doing it again.
func TestRepeatAfterFailure(t *testing.T) {
	t.Parallel()
	n, f := newFake(t)
	f.fail = "nft"
	if _, err := n.Attach(t.Context(), port("a", "red", 0)); err == nil {
		t.Fatal("the failure was swallowed")
	}
	f.fail = ""
	f.took()
	if _, err := n.Attach(t.Context(), port("a", "red", 0)); err != nil {
		t.Fatal(err)
	}
	wantRan(t, f, "nft -f DIR/rules.nft", "bridges gbr0 10.77.0.1/24 gtap0", "dnsmasq")
}

// golden compares text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (go test -update writes it anew):\n%s", path, diff)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	a, b := port("a", "red", 0), port("b", "blue", 1)
	b.Subnet = 1
	lab := &Network{ports: []Port{a, b}, bridges: &fake{}, o: Options{Uplink: "uplink"}}
	golden(t, "rules.nft", lab.rules())
	host := &Network{ports: []Port{a, b}, bridges: &fake{plugs: true}, o: Options{
		Uplink: "bond0", Metadata: true, Shared: true,
		Closed: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/16"), netip.MustParsePrefix("192.168.0.0/24")},
	}}
	golden(t, "rules-host.nft", host.rules())
	if b, err := New(t.TempDir(), nil, &fake{}, Options{Uplink: `x" accept; "`}); err == nil {
		t.Errorf("a rule was smuggled in: %v", b)
	}
}

func TestLeases(t *testing.T) {
	t.Parallel()
	n, f := newFake(t)
	for _, p := range []Port{port("a", "red", 0), port("b", "blue", 1)} {
		if _, err := n.Attach(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	text := "1700003600 02:00:00:00:00:10 10.77.0.10 h-a *\n" +
		"1700003601 02:00:00:00:00:11 10.77.1.11 h-b 01:02\n" +
		"duid 00:01\n1700003602 02:00:00:00:00:1" // cut short, while it is written
	if err := os.WriteFile(filepath.Join(f.dir, "leases"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := n.Leases()
	want := map[string]Lease{
		"02:00:00:00:00:10": {"10.77.0.10", time.Unix(1700000000, 0)},
		"02:00:00:00:00:11": {"10.77.1.11", time.Unix(1700000001, 0)},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}

	// A port that goes takes its lease along: the next guest gets the address.
	if err := n.Detach(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(f.dir, "leases"))
	if err != nil || string(b) != "1700003600 02:00:00:00:00:10 10.77.0.10 h-a *\n" {
		t.Errorf("leases after the detach: %q, %v", b, err)
	}
	h, err := os.ReadFile(filepath.Join(f.dir, "hosts"))
	if err != nil || string(h) != "02:00:00:00:00:10,10.77.0.10,h-a\n" {
		t.Errorf("hosts after the detach: %q, %v", h, err)
	}
}

func TestSubnetsRunOut(t *testing.T) {
	t.Parallel()
	var ports []Port
	for i := range maxSubnets {
		ports = append(ports, Port{Tenant: string(rune('A' + i)), Subnet: i})
	}
	if _, err := chooseSubnet(ports, "one more"); err == nil {
		t.Error("a subnet was given out twice")
	}
	if s, err := chooseSubnet(append(ports[:7:7], ports[8:]...), "one more"); s != 7 || err != nil {
		t.Errorf("got %d, %v; want the free one, 7", s, err)
	}
}
