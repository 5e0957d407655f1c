package domain

import (
	"fmt"
	"strings"
)

// The catalog of images: what a drive is filled with before a guest starts from it.
// An image is a name and a version that stand for one digest, for ever. It is the
// site's, and everybody may launch it, or one project's own.

// Bounds of the catalog.
const (
	maxImages        = 256      // live ones of a project, or of the site
	maxImageBytes    = 64 << 30 // of the file
	maxImageDisk     = 16 << 40 // of the drive it asks for
	maxImageMetadata = 128      // bytes of a word of metadata
)

// ImageFormat is how an image's file is written.
type ImageFormat string

// The formats.
const (
	ImageQCOW2 ImageFormat = "qcow2"
	ImageRaw   ImageFormat = "raw"
)

// ImageSpec is what is said of an image when it is registered. The edge has
// inspected the file: what follows from its bytes is found there.
type ImageSpec struct {
	Project      ProjectID   `json:"project_id,omitzero"` // whose own it is; zero: the site's
	Name         string      `json:"name"`
	Version      string      `json:"version"` // "": made from the digest
	Digest       Digest      `json:"digest"`  // SHA-256 of the file
	SizeBytes    uint64      `json:"size_bytes"`
	Format       ImageFormat `json:"format"`
	DiskBytes    uint64      `json:"disk_bytes"`              // what it fills of a drive; more is the owner's wish
	Driver       string      `json:"driver,omitempty"`        // GPU driver in it: "nvidia-570"
	Fabric       string      `json:"fabric,omitempty"`        // fabric software in it: "doca-2.9"
	SecureBoot   bool        `json:"secure_boot,omitempty"`   // its boot loader is signed
	ReportsReady bool        `json:"reports_ready,omitempty"` // its guest says when it is ready
	Needs        Features    `json:"needs,omitzero"`          // what its guests have to have
}

func (s *ImageSpec) wire(c *coder) {
	idField(c, 1, &s.Project)
	c.str(2, &s.Name)
	c.str(3, &s.Version)
	c.digest(4, &s.Digest)
	c.uvar(5, &s.SizeBytes)
	stringField(c, 6, &s.Format)
	c.uvar(7, &s.DiskBytes)
	c.str(8, &s.Driver)
	c.str(9, &s.Fabric)
	c.bool(10, &s.SecureBoot)
	c.bool(11, &s.ReportsReady)
	uintField(c, 12, &s.Needs)
}

// Image is an image's state. One that was retired keeps its row: its name and
// version never stand for something else.
type Image struct {
	ID      ImageID
	Project ProjectID
	Name    string
	Version string
	Digest  Digest
	Retired bool
	Signed  bool     // its boot loader is: it can be started with Secure Boot
	Needs   Features // what its guests have to have
}

func (i *Image) key() ImageID { return i.ID }

func (i *Image) wire(c *coder) {
	idField(c, 1, &i.ID)
	idField(c, 2, &i.Project)
	c.str(3, &i.Name)
	c.str(4, &i.Version)
	c.digest(5, &i.Digest)
	c.bool(6, &i.Retired)
	c.bool(7, &i.Signed)
	uintField(c, 8, &i.Needs)
}

// imageName is what images are found by; an empty version stands for the newest
// that is not retired.
type imageName struct {
	project       ProjectID
	name, version string
}

// RegisterImage puts an image into the catalog.
type RegisterImage struct {
	Image ImageSpec `json:"image"`
}

// CommandType implements CommandBody.
func (*RegisterImage) CommandType() string { return "image.register" }

func (m *RegisterImage) wire(c *coder) { c.sub(1, &m.Image) }

// ImageRegistered is the fact.
type ImageRegistered struct {
	ID     ImageID   `json:"id"`
	Tenant TenantID  `json:"tenant_id,omitzero"` // of the project; zero: the site's image
	Image  ImageSpec `json:"image"`
}

// EventType implements EventBody.
func (*ImageRegistered) EventType() string { return "image.registered" }

// Owner implements EventBody.
func (e *ImageRegistered) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *ImageRegistered) Resource() string { return e.ID.String() }

func (e *ImageRegistered) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	c.sub(3, &e.Image)
}

// mayKeepImages demands the right to the images of a project, or of the site. It
// finds the project's tenant.
func (w *World) mayKeepImages(x *Context, project ProjectID) (TenantID, *Error) {
	if project.IsZero() {
		return TenantID{}, w.requirePlatform(x, RoleOperator)
	}
	prj, _, err := w.requireProject(x, project, ProjectAdmin)
	if err != nil {
		return TenantID{}, err
	}
	return prj.Tenant, nil
}

func (m *RegisterImage) decide(w *World, x *Context) ([]EventBody, *Error) {
	tenant, err := w.mayKeepImages(x, m.Image.Project)
	if err != nil {
		return nil, err
	}
	spec := m.Image
	if spec.Version == "" && !spec.Digest.IsZero() {
		spec.Version = versionOf(spec.Digest)
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	if id, taken := w.imageNames[imageName{spec.Project, spec.Name, spec.Version}]; taken {
		if have := w.images.get(id); have.Digest == spec.Digest && !have.Retired {
			return nil, nil
		}
		return nil, Errorf(Conflict, "image.version_taken", "%s:%s was another image, or is retired: choose another version", spec.Name, spec.Version)
	}
	if w.imageCounts[spec.Project] >= maxImages {
		return nil, Errorf(Conflict, "image.too_many", "there are %d images: retire some", maxImages)
	}
	return []EventBody{&ImageRegistered{ID: deriveID[imageKind](x.Entropy, 0), Tenant: tenant, Image: spec}}, nil
}

func (s *ImageSpec) check() *Error {
	if err := checkSlug("name", s.Name); err != nil {
		return err
	}
	for field, word := range map[string]string{"driver": s.Driver, "fabric": s.Fabric} {
		if len(word) > maxImageMetadata {
			return invalidField(field, "word.invalid", "%s: at most %d bytes", field, maxImageMetadata)
		}
	}
	switch {
	case !imageVersion(s.Version):
		return invalidField("version", "image.version", "version: want 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-'")
	case s.Digest.IsZero():
		return invalidField("digest", "digest.invalid", "digest: want sha256: and 64 lower-case hex digits")
	case s.SizeBytes == 0 || s.SizeBytes > maxImageBytes:
		return invalidField("size_bytes", "image.size", "size_bytes: want 1 to %d", int64(maxImageBytes))
	case s.DiskBytes == 0 || s.DiskBytes > maxImageDisk:
		return invalidField("min_disk_bytes", "image.size", "min_disk_bytes: want 1 to %d", int64(maxImageDisk))
	case s.Format != ImageQCOW2 && s.Format != ImageRaw:
		return invalidField("format", "image.format", "format: want qcow2 or raw")
	case s.Needs.Has(SecureBoot) && !s.SecureBoot:
		return invalidField("needs", "image.not_signed", "needs: an image whose boot loader is not signed cannot need secure_boot")
	}
	return checkFeatures("needs", s.Needs)
}

func imageVersion(s string) bool {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return s != "" && len(s) <= maxName && strings.Trim(s, plain) == ""
}

func (e *ImageRegistered) apply(w *World, _ *Applied) {
	s := &e.Image
	_, i := w.images.add(e.ID)
	*i = Image{ID: e.ID, Project: s.Project, Name: w.word(s.Name), Version: strings.Clone(s.Version), Digest: s.Digest, Signed: s.SecureBoot, Needs: s.Needs}
	w.indexImage(i)
}

// indexImage enters an image under its names; images come in the order of their rows,
// so the newest is the last.
func (w *World) indexImage(i *Image) {
	w.imageNames[imageName{i.Project, i.Name, i.Version}] = i.ID
	w.siteImages = w.siteImages || i.Project.IsZero()
	if i.Retired {
		return
	}
	w.imageNames[imageName{i.Project, i.Name, ""}] = i.ID
	w.imageCounts[i.Project]++
}

// RetireImage takes an image out of the catalog. What runs from it, runs on.
type RetireImage struct {
	Image ImageID `json:"image_id"`
}

// CommandType implements CommandBody.
func (*RetireImage) CommandType() string { return "image.retire" }

func (m *RetireImage) wire(c *coder) { idField(c, 1, &m.Image) }

// ImageRetired is the fact.
type ImageRetired struct {
	ID     ImageID  `json:"id"`
	Tenant TenantID `json:"tenant_id,omitzero"`
}

// EventType implements EventBody.
func (*ImageRetired) EventType() string { return "image.retired" }

// Owner implements EventBody.
func (e *ImageRetired) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *ImageRetired) Resource() string { return e.ID.String() }

func (e *ImageRetired) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
}

func (m *RetireImage) decide(w *World, x *Context) ([]EventBody, *Error) {
	if _, err := w.principal(x); err != nil {
		return nil, err
	}
	i := w.images.get(m.Image)
	if i == nil {
		return nil, notFound("image")
	}
	tenant, err := w.mayKeepImages(x, i.Project)
	if err != nil {
		if !i.Project.IsZero() {
			err = err.hide("image")
		}
		return nil, err
	}
	if i.Retired {
		return nil, nil
	}
	return []EventBody{&ImageRetired{ID: i.ID, Tenant: tenant}}, nil
}

func (e *ImageRetired) apply(w *World, _ *Applied) {
	i := w.images.get(e.ID)
	i.Retired = true
	w.imageCounts[i.Project]--
	latest := imageName{i.Project, i.Name, ""}
	if w.imageNames[latest] != i.ID {
		return
	}
	delete(w.imageNames, latest)
	for _, other := range w.images.rows() {
		if !other.Retired && other.Project == i.Project && other.Name == i.Name {
			w.imageNames[latest] = other.ID
		}
	}
}

// resolveImage finds what a launch names: NAME or NAME:VERSION, of the project's own
// images first. A site without images of its own takes every name, and its hosts get
// no bytes: that is for simulated hosts, and the answer is nil.
func (w *World) resolveImage(project ProjectID, ref string) (*Image, *Error) {
	name, version, exact := strings.Cut(ref, ":")
	for _, owner := range [...]ProjectID{project, {}} {
		if id, ok := w.imageNames[imageName{owner, name, version}]; ok && exact == (version != "") && !w.images.get(id).Retired {
			return w.images.get(id), nil
		}
	}
	if !w.siteImages {
		return nil, nil
	}
	return nil, invalidField("image", "image.not_found", "image: no such image: see GET /v1/images")
}

// fits refuses an image that a VM with the features would not start from.
func (i *Image) fits(f Features) *Error {
	switch {
	case f.Has(SecureBoot) && !i.Signed:
		return invalidField("image", "image.not_signed", "image: the VM has Secure Boot, and the boot loader of %s:%s is not signed: choose another image or sku", i.Name, i.Version)
	case f.Has(confidential):
		return invalidField("image", "features.exclusive", "image: %s:%s needs %v, and the sku has the other: choose another image or sku", i.Name, i.Version, (i.Needs & confidential).Names())
	}
	return nil
}

// MayKeepImages says whether the actor may register images of the project, or (zero)
// of the site.
func (w *World) MayKeepImages(actor Actor, at Time, project ProjectID) *Error {
	_, err := w.mayKeepImages(&Context{At: at, Actor: actor}, project)
	return err
}

// ImageContent reports whether the project, or (zero) the site, may register the
// digest without bringing its bytes again: they are in an image that it can launch.
func (w *World) ImageContent(project ProjectID, d Digest) bool {
	for _, i := range w.images.rows() {
		if i.Digest == d && (i.Project == project || i.Project.IsZero()) {
			return true
		}
	}
	return false
}

// ImageInUse reports whether hosts may still ask for an image's bytes.
func (w *World) ImageInUse(d Digest) bool {
	for _, i := range w.images.rows() {
		if i.Digest == d && !i.Retired {
			return true
		}
	}
	for _, a := range w.allocations.rows() {
		if a.ImageHash == d && a.State < Releasing {
			return true
		}
	}
	return false
}

// MayHaveImage reports whether a host may fetch an image: one of the site, or that of
// a VM that is placed on it.
func (w *World) MayHaveImage(host HostID, d Digest) bool {
	h := w.hosts.get(host)
	if h == nil || h.Removed {
		return false
	}
	for _, row := range h.vms {
		if w.allocations.row(w.vms.row(row).alloc).ImageHash == d {
			return true
		}
	}
	for _, i := range w.images.rows() {
		if i.Digest == d && i.Project.IsZero() && !i.Retired {
			return true
		}
	}
	return false
}

// ImageNamed finds what was registered before as spec.
func (w *World) ImageNamed(spec *ImageSpec) (ImageID, bool) {
	version := spec.Version
	if version == "" {
		version = versionOf(spec.Digest)
	}
	id, ok := w.imageNames[imageName{spec.Project, spec.Name, version}]
	return id, ok
}

// versionOf is the version of an image that was registered without one.
func versionOf(d Digest) string { return fmt.Sprintf("%x", d[:6]) }
