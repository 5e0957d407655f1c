package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Image is what a drive is filled with before a guest starts from it: a name and a
// version that stand for one digest, for ever.
type Image struct {
	ID           string    `json:"id"` // img_...
	CRN          string    `json:"crn"`
	Name         string    `json:"name"`
	Version      string    `json:"version"`
	State        string    `json:"state"`               // active, retired
	TenantID     string    `json:"tenant_id,omitempty"` // empty: the site's, for everybody
	ProjectID    string    `json:"project_id,omitempty"`
	Digest       string    `json:"digest"` // SHA-256 of the file
	SizeBytes    int64     `json:"size_bytes"`
	Format       string    `json:"format"` // qcow2, raw
	MinDiskBytes int64     `json:"min_disk_bytes"`
	Driver       string    `json:"driver,omitempty"`
	Fabric       string    `json:"fabric,omitempty"`
	SecureBoot   bool      `json:"secure_boot"`
	ReportsReady bool      `json:"reports_ready"`
	Needs        []string  `json:"needs"` // what its guests have to have, as in SKU.Features
	CreatedAt    time.Time `json:"created_at,omitzero"`
	RetiredAt    time.Time `json:"retired_at,omitzero"`
}

// NewImage is an image to be registered: from a complete upload, or (without one) by
// the digest of an image that can be launched there already.
type NewImage struct {
	Name         string   `json:"name"`
	Version      string   `json:"version,omitempty"` // empty: made from the digest
	UploadID     string   `json:"upload_id,omitempty"`
	Digest       string   `json:"digest,omitempty"`
	MinDiskBytes int64    `json:"min_disk_bytes,omitempty"`
	Driver       string   `json:"driver,omitempty"`
	Fabric       string   `json:"fabric,omitempty"`
	SecureBoot   bool     `json:"secure_boot,omitempty"`
	Needs        []string `json:"needs,omitempty"`
	ReportsReady bool     `json:"reports_ready,omitempty"`
}

// ImageUpload is an upload on its way.
type ImageUpload struct {
	ID        string    `json:"id"`
	State     string    `json:"state"` // open, complete
	ProjectID string    `json:"project_id,omitempty"`
	Digest    string    `json:"digest"`
	SizeBytes int64     `json:"size_bytes"`
	Offset    int64     `json:"offset"`
	MaxPiece  int64     `json:"max_piece_bytes"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// imagesPath is where a project's images are, or (empty) the site's.
func imagesPath(project string) string {
	if project == "" {
		return "/v1/images"
	}
	return path("/v1/projects/%s/images", project)
}

// Images lists a project's own images, or (with an empty project) the site's.
func (c *Client) Images(ctx context.Context, project string, retired bool, options ...ListOption) iter.Seq2[Image, error] {
	query := url.Values{}
	if retired {
		query.Set("retired", "true")
	}
	return list[Image](ctx, c, imagesPath(project), query, options)
}

// Image reads one.
func (c *Client) Image(ctx context.Context, id string) (*Image, error) {
	return get[Image](ctx, c, path("/v1/images/%s", id), nil)
}

// RegisterImage puts an image into the catalog of a project, or (empty) of the site.
// The same again changes nothing.
func (c *Client) RegisterImage(ctx context.Context, project string, n NewImage) (*Image, error) {
	return post[Image](ctx, c, imagesPath(project), n)
}

// RetireImage takes an image out of the catalog. What runs from it, runs on.
func (c *Client) RetireImage(ctx context.Context, id string) (*Changed, error) {
	return del[Changed](ctx, c, path("/v1/images/%s", id))
}

// BeginUpload opens an upload for the images of a project, or (empty) of the site.
func (c *Client) BeginUpload(ctx context.Context, project, digest string, size int64) (*ImageUpload, error) {
	return post[ImageUpload](ctx, c, imagesPath(project)+"/uploads", map[string]any{"digest": digest, "size_bytes": size})
}

// ImageUpload says how far an upload is.
func (c *Client) ImageUpload(ctx context.Context, id string) (*ImageUpload, error) {
	return call[ImageUpload](ctx, c, &request{method: http.MethodGet, path: path("/v1/uploads/%s", id)})
}

// AbortUpload gives an upload up.
func (c *Client) AbortUpload(ctx context.Context, id string) error {
	_, err := del[Changed](ctx, c, path("/v1/uploads/%s", id))
	return err
}

// uploadTries bounds how often one offset is tried without a byte more.
const uploadTries = 5

// Upload sends what is missing of an upload, from file, whose bytes it stands for. It
// goes on at the site's offset after every lost answer; progress, if not nil, hears
// how many bytes the site has.
func (c *Client) Upload(ctx context.Context, u *ImageUpload, file io.ReaderAt, progress func(offset int64)) (*ImageUpload, error) {
	piece := make([]byte, min(max(u.MaxPiece, 1), 4<<20))
	for stuck := 0; u.State != "complete"; { // ends: with every turn the offset rises, or stuck does
		if progress != nil {
			progress(u.Offset)
		}
		n, err := file.ReadAt(piece[:min(int64(len(piece)), u.SizeBytes-u.Offset)], u.Offset)
		if err != nil && (!errors.Is(err, io.EOF) || int64(n) < min(int64(len(piece)), u.SizeBytes-u.Offset)) {
			return u, fmt.Errorf("client: the image at %d: %w", u.Offset, err)
		}
		next, err := c.sendPiece(ctx, u, piece[:n])
		if err != nil && !goesOn(err) {
			return u, err
		}
		if err != nil {
			if stuck++; stuck == uploadTries {
				return u, err
			}
			if c.sleep(ctx, c.pause(err, stuck)) != nil {
				return u, err
			}
			if next, err = c.ImageUpload(ctx, u.ID); err != nil {
				return u, err
			}
		}
		if next.Offset > u.Offset {
			stuck = 0
		}
		u = next
	}
	if progress != nil {
		progress(u.Offset)
	}
	return u, nil
}

// goesOn reports whether the upload can go on where the site says.
func goesOn(err error) bool {
	var p *Problem
	return passes(err) || errors.As(err, &p) && (p.Code == "upload.offset" || p.Code == "upload.busy" || p.Code == "request.malformed" || p.Code == "request.slow")
}

func (c *Client) sendPiece(ctx context.Context, u *ImageUpload, piece []byte) (*ImageUpload, error) {
	header := http.Header{
		"User-Agent": {c.agent}, "Accept": {"application/json"}, "Content-Type": {"application/offset+octet-stream"}, "Upload-Offset": {strconv.FormatInt(u.Offset, 10)},
	}
	c.authorize(header)
	r := &request{method: http.MethodPatch, path: path("/v1/uploads/%s", u.ID)}
	a, err := c.try(ctx, r, header, piece)
	if err != nil {
		return nil, err
	}
	return decode[ImageUpload](r, a)
}

// DigestOf reads r to its end: what an upload is begun with.
func DigestOf(r io.Reader) (digest string, size int64, err error) {
	h := sha256.New()
	size, err = io.Copy(h, r)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), size, err
}
