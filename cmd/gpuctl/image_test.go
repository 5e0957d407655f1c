package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/api"
	"github.com/gpuaas/gpuaas/domain"
)

// fakeImages is the images of the fake site: its only upload, whose first piece is
// cut in two and not answered.
type fakeImages struct {
	upload *api.ImageUpload
	bytes  []byte
	cut    bool
	images []api.Image
}

func (s *fakeSite) beginUpload(r *http.Request, b map[string]any) (int, any) {
	s.images.upload = &api.ImageUpload{ID: "upl_1", State: "open", ProjectID: r.PathValue("p"), Digest: fmt.Sprint(b["digest"]), SizeBytes: int64(b["size_bytes"].(float64)), MaxPiece: 700, ExpiresAt: then}
	return 201, s.images.upload
}

func (s *fakeSite) getUpload(r *http.Request, _ map[string]any) (int, any) {
	if s.images.upload == nil || r.PathValue("b") != s.images.upload.ID {
		return 0, problem(404, "upload.not_found", "no such upload: it may have expired")
	}
	return 200, s.images.upload
}

func (s *fakeSite) appendUpload(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, _ := io.ReadAll(r.Body)
	u := s.images.upload
	if r.Header.Get("Upload-Offset") != fmt.Sprint(u.Offset) || r.Header.Get("Content-Type") != "application/offset+octet-stream" || len(b) > 700 {
		write(w, problem(409, "upload.offset", "go on there"))
		return
	}
	lost := !s.images.cut && len(b) > 1
	if lost {
		b = b[:len(b)/2]
	}
	s.images.bytes = append(s.images.bytes, b...)
	if u.Offset = int64(len(s.images.bytes)); u.Offset == u.SizeBytes {
		if u.State = "complete"; domain.DigestOf(s.images.bytes).String() != u.Digest {
			write(w, problem(422, "image.digest_mismatch", "begin again"))
			return
		}
	}
	if lost {
		s.images.cut = true
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(u)
}

func (s *fakeSite) registerImage(r *http.Request, b map[string]any) (int, any) {
	if b["upload_id"] != "upl_1" || s.images.upload.State != "complete" {
		return 0, problem(409, "upload.incomplete", "send the rest first")
	}
	i := api.Image{
		ID: "img" + tail, Name: fmt.Sprint(b["name"]), Version: "1", State: "active", ProjectID: r.PathValue("p"), Digest: s.images.upload.Digest, SizeBytes: s.images.upload.SizeBytes,
		Format: "raw", MinDiskBytes: 2_361_393_152, Driver: fmt.Sprint(b["driver"]), ReportsReady: b["reports_ready"] == true, CreatedAt: then,
	}
	s.images.images = append(s.images.images, i)
	return 201, i
}

func (s *fakeSite) listImages(r *http.Request, _ map[string]any) (int, any) {
	l := api.List[api.Image]{Items: []api.Image{}}
	for _, i := range s.images.images {
		if i.ProjectID == r.PathValue("p") {
			l.Items = append(l.Items, i)
		}
	}
	return 200, l
}

func (s *fakeSite) retireImage(r *http.Request, _ map[string]any) (int, any) {
	if !strings.HasPrefix(r.PathValue("i"), "img_") {
		return 0, problem(404, "image.not_found", "no such image")
	}
	return 202, api.Changed{ID: r.PathValue("i"), State: "retired"}
}

func TestTheBarFits(t *testing.T) {
	t.Parallel()
	for offset, want := range map[int64]string{0: "[" + strings.Repeat(" ", 30) + "] 0 bytes of 3.00 GB", 1e9: "[" + strings.Repeat("=", 10) + strings.Repeat(" ", 20) + "] 1.00 GB of 3.00 GB", 3e9: "[" + strings.Repeat("=", 30) + "] 3.00 GB of 3.00 GB"} {
		if got := bar(offset, 3e9); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
