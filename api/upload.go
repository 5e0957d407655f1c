package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
)

// An image comes in pieces: an upload is begun with its size and digest, each piece
// is sent with the offset at which it goes on (as in tus.io), and the answer says how
// far it got. Whoever lost an answer asks for the offset and goes on there.

// uploadPieceBytes bounds one piece: what a slow line carries within the deadline.
const uploadPieceBytes = 16 << 20

const uploadMediaType = "application/offset+octet-stream"

// ImageContent is what an image's bytes are, as they were inspected.
type ImageContent struct {
	SizeBytes uint64             `json:"size_bytes"` // of the file
	DiskBytes uint64             `json:"disk_bytes"` // what it fills of a drive
	Format    domain.ImageFormat `json:"format"`
}

// NewUpload is an image that somebody wants to bring.
type NewUpload struct {
	Owner     domain.UserID    `json:"owner"`
	Project   domain.ProjectID `json:"project"` // zero: for the site's images
	Digest    domain.Digest    `json:"digest"`
	SizeBytes int64            `json:"size_bytes"`
}

// Upload is an upload on its way.
type Upload struct {
	NewUpload
	ID       string       `json:"id"`
	Offset   int64        `json:"offset"` // so many bytes are durable
	Expires  time.Time    `json:"expires_at"`
	Complete bool         `json:"complete"` // whole, verified and inspected
	Content  ImageContent `json:"content"`
}

// Images keeps the bytes of images and uploads. Its errors are *domain.Error where
// the caller is to blame; another's upload is upload.not_found.
type Images interface {
	Begin(n NewUpload) (Upload, error)
	Append(ctx context.Context, id string, owner domain.UserID, offset int64, r io.Reader) (Upload, error)
	Upload(id string, owner domain.UserID) (Upload, error)
	Abort(id string, owner domain.UserID) error
	Content(d domain.Digest) (ImageContent, bool)
}

// ImageUpload is an upload as its owner sees it.
type ImageUpload struct {
	ID        string `json:"id" example:"upl_..."`
	State     string `json:"state" enum:"open,complete" doc:"complete: the digest is right, and a host will take the image; register it"`
	ProjectID string `json:"project_id,omitempty"`
	Digest    string `json:"digest"`
	SizeBytes int64  `json:"size_bytes"`
	Offset    int64  `json:"offset" doc:"Go on here"`
	MaxPiece  int64  `json:"max_piece_bytes" doc:"At most so many bytes in one request"`
	ExpiresAt string `json:"expires_at" format:"date-time" doc:"Forgotten then, if nothing comes"`
}

type beginUpload struct {
	_         struct{} `json:"-" additionalProperties:"false"`
	Digest    string   `json:"digest" minLength:"71" maxLength:"71" example:"sha256:..." doc:"SHA-256 of the whole file"`
	SizeBytes int64    `json:"size_bytes" minimum:"1" maximum:"68719476736" doc:"Of the whole file"`
}

func (s *Server) uploadRoutes() {
	const about = "Then PATCH its bytes. At most 4 uploads of yours at once; they expire a day after their last byte. The same again, before a byte came, is the same upload."
	command(s, route{method: "POST", path: "/v1/images/uploads", id: "begin-image-upload", tag: "Images", summary: "Begin to upload an image for everybody", about: about, status: 201, plain: true}, s.beginUpload)
	command(s, route{method: "POST", path: "/v1/projects/{p}/images/uploads", id: "begin-project-image-upload", tag: "Images", summary: "Begin to upload an image of a project's own", about: about, status: 201, plain: true}, s.beginUpload)
	read(s, route{path: "/v1/uploads/{b}", id: "get-upload", tag: "Images", summary: "How far an upload is"}, s.getUpload)
	read(s, route{method: "HEAD", path: "/v1/uploads/{b}", id: "head-upload", tag: "Images", summary: "How far an upload is, in Upload-Offset and Upload-Length"}, s.getUpload)
	action(s, route{method: "DELETE", path: "/v1/uploads/{b}", id: "abort-upload", tag: "Images", summary: "Give an upload up", plain: true}, s.abortUpload)
	s.appendRoute()
}

// appendRoute is the one route whose body is bytes, read as they come.
func (s *Server) appendRoute() {
	r := route{
		method: "PATCH", path: "/v1/uploads/{b}", id: "append-upload", tag: "Images", summary: "Send the next piece of an upload", raw: true, also: []int{409, 413, 415},
		about: "What came of a piece that broke off stays. The last byte completes the upload: its digest is compared, and an image is refused that a host would refuse.",
	}
	op := s.operation(r, false)
	op.Parameters = append(op.Parameters, &param{Name: "Upload-Offset", In: "header", Required: true, Description: "Where the piece begins: the upload's offset.", Schema: &huma.Schema{Type: "integer", Minimum: floatOf(0)}})
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{uploadMediaType: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}}
	op.SkipValidateBody = true
	huma.Register(s.api, op, func(ctx context.Context, _ *noInput) (*output[*ImageUpload], error) {
		c := callOf(ctx)
		c.rest()
		res, err := s.appendUpload(c)
		c.work()
		if err != nil {
			return nil, c.fail(err)
		}
		return &output[*ImageUpload]{res}, nil
	})
	s.routes = append(s.routes, r)
}

// rawBody reports whether the request's body is for its handler to read.
func rawBody(r *http.Request) bool {
	return r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, "/v1/uploads/")
}

func (s *Server) beginUpload(c *call, b *beginUpload) (*ImageUpload, *domain.Error) {
	project, err := imageProject(c)
	if err != nil {
		return nil, err
	}
	if err := c.query(func(w *domain.World, at domain.Time) *domain.Error { return w.MayKeepImages(c.actor(), at, project) }); err != nil {
		return nil, err
	}
	n := NewUpload{Owner: c.caller.Member.ID, Project: project, SizeBytes: b.SizeBytes}
	if n.Digest.UnmarshalText([]byte(b.Digest)) != nil {
		return nil, invalid("digest", "digest.invalid", "digest: want sha256: and 64 lower-case hex digits")
	}
	u, berr := s.o.Images.Begin(n)
	if berr != nil {
		return nil, domain.AsError(berr)
	}
	c.location("/v1/uploads/" + u.ID)
	return c.showUpload(&u), nil
}

func (s *Server) getUpload(c *call) (*ImageUpload, *domain.Error) {
	u, err := s.o.Images.Upload(c.echo.Param("b"), c.caller.Member.ID)
	if err != nil {
		return nil, domain.AsError(err)
	}
	if err := c.now(); err != nil {
		return nil, err
	}
	return c.showUpload(&u), nil
}

func (s *Server) abortUpload(c *call) (*Changed, *domain.Error) {
	id := c.echo.Param("b")
	if err := s.o.Images.Abort(id, c.caller.Member.ID); err != nil {
		return nil, domain.AsError(err)
	}
	return &Changed{ID: id, State: "aborted"}, nil
}

func (s *Server) appendUpload(c *call) (*ImageUpload, *domain.Error) {
	id, r := c.echo.Param("b"), c.echo.Request()
	if _, err := s.o.Images.Upload(id, c.caller.Member.ID); err != nil {
		return nil, domain.AsError(err)
	}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(t), uploadMediaType) {
		return nil, domain.Errorf(domain.Invalid, "request.media_type", "send %s", uploadMediaType)
	}
	offset, perr := strconv.ParseInt(r.Header.Get("Upload-Offset"), 10, 64)
	if perr != nil || offset < 0 {
		return nil, domain.Errorf(domain.Invalid, "request.invalid", "Upload-Offset: want the upload's offset")
	}
	if r.ContentLength > uploadPieceBytes {
		return nil, domain.Errorf(domain.Invalid, "request.too_large", "a piece has at most %d bytes", uploadPieceBytes)
	}
	w := c.echo.Response() // the edge bounded the time to read it
	u, err := s.o.Images.Append(c.ctx(), id, c.caller.Member.ID, offset, http.MaxBytesReader(w, r.Body, uploadPieceBytes))
	if err != nil {
		return nil, domain.AsError(err)
	}
	_ = huma.SetReadDeadline(w, time.Time{})
	return c.showUpload(&u), nil
}

func (c *call) showUpload(u *Upload) *ImageUpload {
	h := c.echo.Response().Header()
	h.Set("Upload-Offset", strconv.FormatInt(u.Offset, 10))
	h.Set("Upload-Length", strconv.FormatInt(u.SizeBytes, 10))
	out := &ImageUpload{
		ID: u.ID, State: "open", ProjectID: u.Project.String(), Digest: u.Digest.String(), SizeBytes: u.SizeBytes, Offset: u.Offset, MaxPiece: uploadPieceBytes,
		ExpiresAt: domain.TimeOf(u.Expires).String(),
	}
	if u.Complete {
		out.State = "complete"
	}
	return out
}
