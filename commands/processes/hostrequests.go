package processes

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/gpuaas/gpuaas/domain"
)

// HostRequests answers what hosts ask for: pieces of images, and the ssh keys and
// user data of VMs that are placed on them, and of no others.
type HostRequests struct {
	Loop  Loop
	Vault func(ctx context.Context, digest domain.Digest) ([]byte, error)
	Image func(domain.Digest) (path string, ok bool)
	Audit func(Denied)
}

// maxImagePiece bounds one answer.
const maxImagePiece = 768 << 10

// ServeImage answers {"digest","offset","length"} with raw bytes; none past the end.
func (r *HostRequests) ServeImage(_ context.Context, _ domain.HostID, payload []byte) ([]byte, error) {
	var req struct {
		Digest domain.Digest `json:"digest"`
		Offset int64         `json:"offset"`
		Length int           `json:"length"`
	}
	if err := json.Unmarshal(payload, &req); err != nil || req.Offset < 0 || req.Length <= 0 {
		return nil, domain.Errorf(domain.Invalid, "image.bad_request", "want digest, offset and length")
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

// ServeVault answers {"vm_id","digest"} with the vault's document.
func (r *HostRequests) ServeVault(ctx context.Context, host domain.HostID, payload []byte) ([]byte, error) {
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
