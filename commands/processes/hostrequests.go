package processes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// HostRequests answers what hosts ask for: pieces of the site's images and of those
// of VMs that are placed on them, the ssh keys and user data of these VMs, and of no
// others.
type HostRequests struct {
	Loop  Loop
	Vault func(ctx context.Context, digest domain.Digest) ([]byte, error)
	Image func(domain.Digest) (path string, ok bool)
	Audit func(Denied)
	Clock func() time.Time

	mu      sync.Mutex
	allowed map[imageGrant]time.Time // until when
}

// imageGrant is a host's right to an image, asked once for many pieces.
type imageGrant struct {
	host   domain.HostID
	digest domain.Digest
}

const (
	imageGrantLasts = time.Minute
	maxImageGrants  = 16384 // more are asked again
)

// maxImagePiece bounds one answer.
const maxImagePiece = 768 << 10

// ServeImage answers {"digest","offset","length"} with raw bytes; none past the end.
func (r *HostRequests) ServeImage(ctx context.Context, host domain.HostID, payload []byte) (data []byte, err error) {
	defer r.survive(host, "image.get", &err)
	var req struct {
		Digest domain.Digest `json:"digest"`
		Offset int64         `json:"offset"`
		Length int           `json:"length"`
	}
	if err := json.Unmarshal(payload, &req); err != nil || req.Offset < 0 || req.Length <= 0 {
		return nil, domain.Errorf(domain.Invalid, "image.bad_request", "want digest, offset and length")
	}
	if ok, err := r.mayHaveImage(ctx, host, req.Digest); err != nil {
		return nil, err
	} else if !ok {
		r.Audit(Denied{Actor: host.String(), Action: "image.get", Code: "image.not_yours", Detail: req.Digest.String()})
		return nil, domain.Errorf(domain.NotFound, "image.not_found", "no image %s", req.Digest)
	}
	path, ok := r.Image(req.Digest)
	if !ok {
		return nil, domain.Errorf(domain.NotFound, "image.not_found", "no image %s", req.Digest)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, min(req.Length, maxImagePiece))
	n, err := f.ReadAt(b, req.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// survive turns a panic over one host's request into its refusal: the process is also
// for the others.
func (r *HostRequests) survive(host domain.HostID, action string, err *error) {
	if p := recover(); p != nil {
		r.Audit(Denied{Actor: host.String(), Action: action, Code: "internal", Detail: fmt.Sprint(p)})
		*err = domain.Errorf(domain.Internal, "internal", "internal error")
	}
}

// mayHaveImage asks the world, and remembers a yes for a minute: an image is
// thousands of pieces.
func (r *HostRequests) mayHaveImage(ctx context.Context, host domain.HostID, digest domain.Digest) (bool, error) {
	now, key := r.Clock(), imageGrant{host, digest}
	r.mu.Lock()
	until := r.allowed[key]
	r.mu.Unlock()
	if now.Before(until) {
		return true, nil
	}
	ok := false
	if _, err := r.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { ok = w.MayHaveImage(host, digest) }); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !ok:
		delete(r.allowed, key)
	case r.allowed == nil || len(r.allowed) >= maxImageGrants:
		r.allowed = map[imageGrant]time.Time{key: now.Add(imageGrantLasts)}
	default:
		r.allowed[key] = now.Add(imageGrantLasts)
	}
	return ok, nil
}

// ServeVault answers {"vm_id","digest"} with the vault's document.
func (r *HostRequests) ServeVault(ctx context.Context, host domain.HostID, payload []byte) (data []byte, err error) {
	defer r.survive(host, "vault.get", &err)
	var req struct {
		VM     domain.VMID   `json:"vm_id"`
		Digest domain.Digest `json:"digest"`
	}
	if err := json.Unmarshal(payload, &req); err != nil {
		return nil, domain.Errorf(domain.Invalid, "vault.bad_request", "want vm_id and digest")
	}
	allowed := false
	if _, err := r.Loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) {
		allowed = w.MayHaveUserData(host, req.VM, req.Digest)
	}); err != nil {
		return nil, err
	}
	if !allowed {
		r.Audit(Denied{Actor: host.String(), Action: "vault.get", Code: "vault.not_yours", Detail: req.VM.String()})
		return nil, domain.Errorf(domain.NotFound, "vault.not_found", "no such document")
	}
	return r.Vault(ctx, req.Digest)
}
