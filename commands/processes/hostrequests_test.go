package processes_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/commands/processes"
	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/domain/domaintest"
	"github.com/gpuaas/gpuaas/streams"
	"github.com/gpuaas/gpuaas/streams/server"
	"github.com/gpuaas/gpuaas/streams/streamstest"
)

// A host gets the site's images, and a tenant's own only while a VM with it is placed
// there; what it may not have looks like what is not there.
func TestHostsGetTheImagesOfTheirVMs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	domaintest.SKUs(r.submit, r.admin, 1)
	tenant := domaintest.NewTenant(r.submit, r.admin, "acme", "acme", 1e9)
	file := func(text string) (domain.Digest, string) {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return domain.DigestOf([]byte(text)), path
	}
	paths := map[domain.Digest]string{}
	register := func(by domain.Actor, project domain.ProjectID, name, text string) domain.Digest {
		d, path := file(text)
		paths[d] = path
		r.submit(by, &domain.RegisterImage{Image: domain.ImageSpec{Project: project, Name: name, Digest: d, SizeBytes: 1 << 20, Format: domain.ImageRaw, DiskBytes: 1 << 20}})
		return d
	}
	public := register(r.admin, domain.ProjectID{}, "tiny", "the site's image")
	private := register(tenant.Key, tenant.Project, "own", "the tenant's image")
	unknown, path := file("nobody's image")
	paths[unknown] = path // on disk, in no catalog

	placed := domaintest.NewHost(r.submit, r.admin, "placed", "r", 1)
	var vm *domain.AllocationPlaced
	for _, e := range r.submit(tenant.Key, &domain.CreateAllocation{Project: tenant.Project, SKUName: "gpu-1x", Image: "own", Count: 1}) {
		if p, ok := e.(*domain.AllocationPlaced); ok {
			vm = p
		}
	}
	if vm == nil || vm.VMs[0].Host != placed.ID {
		t.Fatalf("not placed: %+v", vm)
	}
	other := domaintest.NewHost(r.submit, r.admin, "other", "r", 1)

	now := time.Now()
	asked := &processes.HostRequests{Loop: r.loop, Audit: r.deny, Clock: func() time.Time { return now }, Image: func(d domain.Digest) (string, bool) {
		p, ok := paths[d]
		return p, ok
	}}
	answers, err := streams.OpenRequests(r.site.Dial(server.Responder), r.site.Names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(answers.Close)
	r.background(func(ctx context.Context) { _ = answers.ServeImages(ctx, asked.ServeImage) })
	placedLink, otherLink := r.site.Link(r.site.NewHostAs(placed.ID)), r.site.Link(r.site.NewHostAs(other.ID))
	get := func(by domain.HostID, d domain.Digest) (string, string) {
		t.Helper()
		link := placedLink
		if by == other.ID {
			link = otherLink
		}
		payload, err := json.Marshal(map[string]any{"digest": d, "offset": 0, "length": 100})
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		r.eventually("an answer", func() bool { // nobody may answer yet
			b, err = link.RequestImage(streamstest.Context(t), payload)
			var refused *domain.Error
			return err == nil || errors.As(err, &refused)
		})
		var refused *domain.Error
		if errors.As(err, &refused) {
			return "", refused.Code
		}
		return string(b), ""
	}
	for _, c := range []struct {
		by   domain.HostID
		d    domain.Digest
		text string
		code string
	}{
		{placed.ID, public, "the site's image", ""},
		{other.ID, public, "the site's image", ""},
		{placed.ID, private, "the tenant's image", ""},
		{other.ID, private, "", "image.not_found"},
		{placed.ID, unknown, "", "image.not_found"},
		{other.ID, domain.DigestOf([]byte("not there at all")), "", "image.not_found"},
	} {
		if text, code := get(c.by, c.d); text != c.text || code != c.code {
			t.Errorf("host %s, image %s: %q %q, want %q %q", c.by, c.d, text, code, c.text, c.code)
		}
	}
	r.denied(other.ID, "image.not_yours", private.String())

	// When its VM is gone, a minute later it has no right to it any more.
	r.submit(tenant.Key, &domain.ActOnAllocation{Allocation: vm.ID, Action: domain.ActionRelease})
	now = now.Add(2 * time.Minute)
	if text, code := get(placed.ID, private); text != "" || code != "image.not_found" {
		t.Errorf("after the release: %q %q", text, code)
	}
}
