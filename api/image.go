package api

import (
	"github.com/danielgtaylor/huma/v2"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/projections"
)

// Image is what a drive is filled with before a guest starts from it: a name and a
// version that stand for one digest, for ever.
type Image struct {
	ID           string   `json:"id" example:"img_06g3n4k8w2v5r9t1y7m0q4x8zc"`
	CRN          string   `json:"crn"`
	Name         string   `json:"name" example:"ubuntu-24-04"`
	Version      string   `json:"version" example:"2026.11"`
	State        string   `json:"state" enum:"active,retired"`
	TenantID     string   `json:"tenant_id,omitempty" doc:"Left out: the site's, for everybody"`
	ProjectID    string   `json:"project_id,omitempty"`
	Digest       string   `json:"digest" doc:"SHA-256 of the file"`
	SizeBytes    int64    `json:"size_bytes"`
	Format       string   `json:"format" enum:"qcow2,raw"`
	MinDiskBytes int64    `json:"min_disk_bytes" doc:"What a drive has to hold"`
	Driver       string   `json:"driver,omitempty" doc:"GPU driver in it"`
	Fabric       string   `json:"fabric,omitempty" doc:"Fabric software in it"`
	SecureBoot   bool     `json:"secure_boot" doc:"Its boot loader is signed"`
	ReportsReady bool     `json:"reports_ready" doc:"Its guest says when it is ready"`
	Needs        []string `json:"needs" nullable:"false" enum:"secure_boot,vtpm,sev-snp,tdx" doc:"What its guests have to have"`
	CreatedAt    string   `json:"created_at,omitempty" format:"date-time"`
	RetiredAt    string   `json:"retired_at,omitempty" format:"date-time"`
}

type registerImage struct {
	_            struct{} `json:"-" additionalProperties:"false"`
	Name         string   `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" patternDescription:"lower-case letters, digits and inner hyphens" example:"ubuntu-24-04"`
	Version      string   `json:"version,omitempty" maxLength:"63" pattern:"^[a-zA-Z0-9._-]+$" patternDescription:"letters, digits, dots, underscores and hyphens" doc:"Left out: the beginning of the digest"`
	UploadID     string   `json:"upload_id,omitempty" maxLength:"64" doc:"Of your complete upload. Left out: the digest of an image that can be launched here already"`
	Digest       string   `json:"digest,omitempty" maxLength:"71" example:"sha256:..."`
	MinDiskBytes int64    `json:"min_disk_bytes,omitempty" minimum:"0" doc:"More than the image itself fills; left out: that"`
	Driver       string   `json:"driver,omitempty" maxLength:"128" example:"nvidia-570"`
	Fabric       string   `json:"fabric,omitempty" maxLength:"128" example:"doca-2.9"`
	SecureBoot   bool     `json:"secure_boot,omitempty"`
	ReportsReady bool     `json:"reports_ready,omitempty"`
	Needs        []string `json:"needs,omitempty" maxItems:"4" enum:"secure_boot,vtpm,sev-snp,tdx" doc:"What its guests have to have: they are launched only on hosts that offer it"`
}

func (s *Server) imageRoutes() {
	const about = "From a complete upload. A name and version stand for one digest for ever: the same again changes nothing."
	retired := queryParam("retired", "true: retired ones too.", &huma.Schema{Type: "boolean"})
	command(s, route{method: "POST", path: "/v1/images", id: "register-image", tag: "Images", summary: "Register an image for everybody", about: about, status: 201}, s.registerImage)
	command(s, route{method: "POST", path: "/v1/projects/{p}/images", id: "register-project-image", tag: "Images", summary: "Register an image of a project's own", about: about, status: 201}, s.registerImage)
	read(s, route{path: "/v1/images", id: "list-images", tag: "Images", summary: "List the site's images", query: append([]*param{retired}, paging...)}, s.listImages)
	read(s, route{path: "/v1/projects/{p}/images", id: "list-project-images", tag: "Images", summary: "List a project's own images", query: append([]*param{retired}, paging...)}, s.listImages)
	read(s, route{path: "/v1/images/{i}", id: "get-image", tag: "Images", summary: "Read an image"}, s.getImage)
	action(s, route{method: "DELETE", path: "/v1/images/{i}", id: "retire-image", tag: "Images", summary: "Retire an image: it is not launched any more", about: "What runs from it, runs on. Its version is never used again.", status: 202}, s.retireImage)
	s.uploadRoutes()
}

// imageProject is the project of the path; zero on the site's routes.
func imageProject(c *call) (id domain.ProjectID, err *domain.Error) {
	if c.echo.Param("p") != "" {
		err = pathID(c, "p", "project", &id)
	}
	return id, err
}

func (s *Server) registerImage(c *call, b *registerImage) (*Image, *domain.Error) {
	project, err := imageProject(c)
	if err != nil {
		return nil, err
	}
	if err := c.query(func(w *domain.World, at domain.Time) *domain.Error { return w.MayKeepImages(c.actor(), at, project) }); err != nil {
		return nil, err
	}
	needs, err := featuresField("needs", b.Needs)
	if err != nil {
		return nil, err
	}
	m := &domain.RegisterImage{Image: domain.ImageSpec{
		Project: project, Name: b.Name, Version: b.Version, Driver: b.Driver, Fabric: b.Fabric, SecureBoot: b.SecureBoot, ReportsReady: b.ReportsReady, Needs: needs,
	}}
	content, err := s.imageContent(c, project, b, &m.Image.Digest)
	if err != nil {
		return nil, err
	}
	m.Image.SizeBytes, m.Image.Format, m.Image.DiskBytes = content.SizeBytes, content.Format, max(content.DiskBytes, uint64(b.MinDiskBytes))
	d, err := c.submit(m)
	if err != nil {
		return nil, err
	}
	e, ok := eventOf[*domain.ImageRegistered](&d)
	if !ok {
		return s.imageOfBefore(c, &m.Image, d.n)
	}
	c.location("/v1/images/" + e.ID.String())
	i := &e.Image
	return &Image{
		ID: e.ID.String(), CRN: s.crn(e.Tenant.String(), i.Project.String(), "image", e.ID.String()), Name: i.Name, Version: i.Version, State: "active", TenantID: e.Tenant.String(),
		ProjectID: i.Project.String(), Digest: i.Digest.String(), SizeBytes: int64(i.SizeBytes), Format: string(i.Format), MinDiskBytes: int64(i.DiskBytes), Driver: i.Driver, Fabric: i.Fabric,
		SecureBoot: i.SecureBoot, ReportsReady: i.ReportsReady, Needs: i.Needs.Names(), CreatedAt: d.at.String(),
	}, nil
}

// imageOfBefore is the answer to a registration that changed nothing: the image as it
// was registered first.
func (s *Server) imageOfBefore(c *call, spec *domain.ImageSpec, n uint64) (*Image, *domain.Error) {
	var id domain.ImageID
	if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error { id, _ = w.ImageNamed(spec); return nil }); err != nil {
		return nil, err
	}
	if err := s.o.Wait.WaitFor(c.ctx(), n); err != nil {
		return nil, domain.AsError(err)
	}
	i, err := one(c, func() (projections.Image, uint64, error) { return s.o.Reads.Image(c.ctx(), c.scope(), id) }, s.showImage)
	return &i, err
}

// imageContent finds the bytes that are to be registered. A digest alone names only
// what can be launched here already: who knows the digest of another's image does not
// get at it.
func (s *Server) imageContent(c *call, project domain.ProjectID, b *registerImage, digest *domain.Digest) (ImageContent, *domain.Error) {
	if b.Digest != "" && digest.UnmarshalText([]byte(b.Digest)) != nil {
		return ImageContent{}, invalid("digest", "digest.invalid", "digest: want sha256: and 64 lower-case hex digits")
	}
	if b.UploadID != "" {
		u, err := s.o.Images.Upload(b.UploadID, c.caller.Member.ID)
		switch {
		case err != nil:
			return ImageContent{}, domain.AsError(err)
		case u.Project != project:
			return ImageContent{}, invalid("upload_id", "upload.elsewhere", "upload_id: the upload was begun for other images than these")
		case !u.Complete:
			return ImageContent{}, domain.Errorf(domain.Conflict, "upload.incomplete", "%d of %d bytes have come: send the rest first", u.Offset, u.SizeBytes)
		case b.Digest != "" && *digest != u.Digest:
			return ImageContent{}, invalid("digest", "image.digest_mismatch", "digest: the upload is %s", u.Digest)
		}
		*digest = u.Digest
		return u.Content, nil
	}
	known := false
	if err := c.query(func(w *domain.World, _ domain.Time) *domain.Error {
		known = w.ImageContent(project, *digest)
		return nil
	}); err != nil {
		return ImageContent{}, err
	}
	content, here := s.o.Images.Content(*digest)
	if !known || !here {
		return content, domain.Errorf(domain.Conflict, "image.not_uploaded", "upload the image first: POST .../images/uploads, and give its upload_id")
	}
	return content, nil
}

func (s *Server) retireImage(c *call) (*Changed, *domain.Error) {
	m := &domain.RetireImage{}
	if err := pathID(c, "i", "image", &m.Image); err != nil {
		return nil, err
	}
	if _, err := c.submit(m); err != nil {
		return nil, err
	}
	return &Changed{ID: m.Image.String(), State: "retired"}, nil
}

func (s *Server) listImages(c *call) (*List[Image], *domain.Error) {
	project, err := imageProject(c)
	if err != nil {
		return nil, err
	}
	retired := c.echo.QueryParam("retired")
	if retired != "" && retired != "true" && retired != "false" {
		return nil, domain.Errorf(domain.Invalid, "request.invalid", "retired: want true or false")
	}
	return list(c, func(o projections.ListOptions) (projections.Page[projections.Image], error) {
		return s.o.Reads.Images(c.ctx(), c.scope(), project, retired == "true", o)
	}, s.showImage)
}

func (s *Server) getImage(c *call) (Image, *domain.Error) {
	var id domain.ImageID
	if err := pathID(c, "i", "image", &id); err != nil {
		return Image{}, err
	}
	return one(c, func() (projections.Image, uint64, error) { return s.o.Reads.Image(c.ctx(), c.scope(), id) }, s.showImage)
}

func (s *Server) showImage(r *projections.Image) Image {
	i := Image{
		ID: r.ID, CRN: s.crn(r.TenantID, r.ProjectID, "image", r.ID), Name: r.Name, Version: r.Version, State: "active", TenantID: r.TenantID, ProjectID: r.ProjectID, Digest: r.Digest,
		SizeBytes: r.SizeBytes, Format: r.Format, MinDiskBytes: r.DiskBytes, Driver: r.Driver, Fabric: r.Fabric, SecureBoot: r.SecureBoot, ReportsReady: r.ReportsReady, Needs: r.Needs.Names(),
		CreatedAt: r.CreatedAt.String(), RetiredAt: r.RetiredAt.String(),
	}
	if r.RetiredAt != 0 {
		i.State = "retired"
	}
	return i
}
