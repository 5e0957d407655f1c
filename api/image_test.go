package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

// memoryImages keeps uploads in memory, and takes every image for a good one that
// does not begin with "bad".
type memoryImages struct {
	mu      sync.Mutex
	uploads map[string]*Upload
	parts   map[string][]byte
}

func (m *memoryImages) Begin(n NewUpload) (Upload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.uploads {
		if u.NewUpload == n && u.Offset == 0 {
			return *u, nil
		}
	}
	u := &Upload{NewUpload: n, ID: fmt.Sprintf("upl_%d", len(m.uploads)+1000)}
	m.uploads[u.ID] = u
	return *u, nil
}

func (m *memoryImages) find(id string, owner domain.UserID) (*Upload, error) {
	if u := m.uploads[id]; u != nil && u.Owner == owner {
		return u, nil
	}
	return nil, domain.Errorf(domain.NotFound, "upload.not_found", "no such upload: it may have expired")
}

func (m *memoryImages) Append(_ context.Context, id string, owner domain.UserID, offset int64, r io.Reader) (Upload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, err := m.find(id, owner)
	if err != nil {
		return Upload{}, err
	}
	if offset != u.Offset {
		return Upload{}, domain.Errorf(domain.Conflict, "upload.offset", "the upload is at the offset %d: go on there", u.Offset)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return Upload{}, err
	}
	m.parts[id] = append(m.parts[id], b...)
	u.Offset = int64(len(m.parts[id]))
	if u.Offset == u.SizeBytes {
		if sha256.Sum256(m.parts[id]) != u.Digest {
			return Upload{}, domain.Errorf(domain.Invalid, "image.digest_mismatch", "begin again")
		}
		u.Complete, u.Content = true, ImageContent{SizeBytes: uint64(u.SizeBytes), DiskBytes: 4096, Format: domain.ImageRaw}
	}
	return *u, nil
}

func (m *memoryImages) Upload(id string, owner domain.UserID) (Upload, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, err := m.find(id, owner)
	if err != nil {
		return Upload{}, err
	}
	return *u, nil
}

func (m *memoryImages) Abort(id string, owner domain.UserID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.find(id, owner)
	if err == nil {
		delete(m.uploads, id)
	}
	return err
}

func (m *memoryImages) Content(d domain.Digest) (ImageContent, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.uploads {
		if u.Digest == d && u.Complete {
			return u.Content, true
		}
	}
	return ImageContent{}, false
}

var bytesOfImage = header{"Content-Type", uploadMediaType}

// An image of a tenant's own: uploaded in pieces, registered, launched, retired; and
// nobody else has anything of it.
func TestAnImageFromUploadToRetirement(t *testing.T) {
	t.Parallel()
	s := newReadingSite(t)
	s.host("h1", 4)
	s.sku("gpu-1x", 1, 1000)
	acme, other := s.tenant("acme", 100_000_000), s.tenant("other", 100_000_000)
	s.system(&domain.RegisterImage{Image: domain.ImageSpec{Name: "tiny", Digest: domain.Digest{1}, SizeBytes: 1, Format: domain.ImageRaw, DiskBytes: 1}})
	file := bytes.Repeat([]byte("image"), 300<<10) // more than a JSON body may have
	digest := domain.DigestOf(file).String()
	images := "/v1/projects/" + acme.project + "/images"
	begin := fmt.Sprintf(`{"digest":%q,"size_bytes":%d}`, digest, len(file))

	u := s.want(201, acme.owner, "POST", images+"/uploads", begin)
	path := "/v1/uploads/" + u.get("id")
	half := len(file) / 2
	a := s.want(200, acme.owner, "PATCH", path, string(file[:half]), bytesOfImage, header{"Upload-Offset", "0"})
	if a.header.Get("Upload-Offset") != fmt.Sprint(half) || a.get("state") != "open" {
		t.Errorf("%v %s", a.header, a.body)
	}
	s.refused(409, "upload.offset", acme.owner, "PATCH", path, "x", bytesOfImage, header{"Upload-Offset", "0"})
	s.refused(415, "request.media_type", acme.owner, "PATCH", path, "x", header{"Upload-Offset", "0"})
	s.refused(422, "request.invalid", acme.owner, "PATCH", path, "x", bytesOfImage)
	s.refused(413, "request.too_large", acme.owner, "PATCH", path, strings.Repeat("x", uploadPieceBytes+1), bytesOfImage, header{"Upload-Offset", fmt.Sprint(half)})
	s.refused(404, "upload.not_found", other.owner, "PATCH", path, "x", bytesOfImage, header{"Upload-Offset", fmt.Sprint(half)})
	s.refused(409, "upload.incomplete", acme.owner, "POST", images, `{"name":"mine","upload_id":"`+u.get("id")+`"}`)
	if h := s.want(200, acme.owner, "HEAD", path, ""); h.header.Get("Upload-Offset") != fmt.Sprint(half) || h.header.Get("Upload-Length") != fmt.Sprint(len(file)) || len(h.body) != 0 {
		t.Errorf("%v", h.header)
	}
	if a := s.want(200, acme.owner, "PATCH", path, string(file[half:]), bytesOfImage, header{"Upload-Offset", fmt.Sprint(half)}); a.get("state") != "complete" {
		t.Errorf("%s", a.body)
	}
	body := fmt.Sprintf(`{"name":"mine","version":"1","upload_id":%q,"driver":"nvidia-570","reports_ready":true,"min_disk_bytes":10000}`, u.get("id"))
	s.refused(404, "upload.not_found", other.owner, "POST", "/v1/projects/"+other.project+"/images", body)
	image := s.want(201, acme.owner, "POST", images, body)
	again := s.want(201, acme.owner, "POST", images, body)
	if again.get("id") != image.get("id") || image.get("min_disk_bytes") != "10000" || image.get("digest") != digest || image.get("reports_ready") != "true" {
		t.Errorf("%s\n%s", image.body, again.body)
	}
	// Who knows the digest of another's image has nothing of it.
	s.refused(409, "image.not_uploaded", other.owner, "POST", "/v1/projects/"+other.project+"/images", fmt.Sprintf(`{"name":"stolen","digest":%q}`, digest))
	s.want(201, acme.owner, "POST", images, fmt.Sprintf(`{"name":"mine","version":"2","digest":%q}`, digest))

	at := "&at_least=" + jsonOf(s.log.last())
	if l := s.want(200, acme.viewer, "GET", images+"?limit=1"+at, ""); l.get("items.0.name") != "mine" || l.get("items.0.crn") == "" || l.get("next_cursor") == "" {
		t.Errorf("%s", l.body)
	}
	if l := s.want(200, other.owner, "GET", "/v1/images?limit=5", ""); l.get("items.0.name") != "tiny" || l.get("items.1.name") != "" {
		t.Errorf("%s", l.body)
	}
	if events := s.want(200, other.owner, "GET", "/v1/events?types=image.*", ""); strings.Contains(string(events.body), digest) {
		t.Errorf("%s", events.body)
	}
	launch := func(who *tenant, ref string) (string, string) {
		return "/v1/projects/" + who.project + "/allocations", `{"sku":"gpu-1x","image":"` + ref + `"}`
	}
	for _, ref := range []string{"mine", "mine:1", "tiny", ""} {
		path, body := launch(acme, ref)
		s.want(201, acme.owner, "POST", path, body)
	}
	path, body = launch(other, "mine")
	s.refused(422, "image.not_found", other.owner, "POST", path, body)
	path, body = launch(acme, "mine:7")
	s.refused(422, "image.not_found", acme.owner, "POST", path, body)

	s.want(202, acme.owner, "DELETE", "/v1/images/"+image.get("id"), "")
	s.want(202, acme.owner, "DELETE", "/v1/images/"+image.get("id"), "")
	path, body = launch(acme, "mine:1")
	s.refused(422, "image.not_found", acme.owner, "POST", path, body)
	l := s.want(200, acme.owner, "GET", images+"?retired=true&at_least="+jsonOf(s.log.last()), "")
	var page List[Image]
	if err := json.Unmarshal(l.body, &page); err != nil || len(page.Items) != 2 || page.Items[0].State != "retired" || page.Items[1].State != "active" {
		t.Errorf("%v: %s", err, l.body)
	}
}
