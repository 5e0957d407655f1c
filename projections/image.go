package projections

import (
	"context"

	"github.com/gpuaas/gpuaas/domain"
)

func (b *batch) imageRegistered(x *at, e *domain.ImageRegistered) {
	i := &e.Image
	b.exec(1, `INSERT INTO images (id, number, tenant_id, project_id, name, version, digest, size_bytes, disk_bytes, format, driver, fabric, secure_boot, reports_ready, needs, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		e.ID.String(), int64(x.Number), e.Tenant.String(), i.Project.String(), i.Name, i.Version, i.Digest.String(), int64(i.SizeBytes), int64(i.DiskBytes), string(i.Format),
		i.Driver, i.Fabric, i.SecureBoot, i.ReportsReady, int64(i.Needs), timestamp(x.At))
}

func (b *batch) imageRetired(x *at, e *domain.ImageRetired) {
	b.exec(1, `UPDATE images SET retired_at = $2 WHERE id = $1`, e.ID.String(), timestamp(x.At))
}

// Image is an image of the catalog.
type Image struct {
	Number       int64           `json:"-" db:"number"`
	ID           string          `json:"id" db:"id"`
	TenantID     string          `json:"tenant_id,omitempty" db:"tenant_id"` // "": the site's
	ProjectID    string          `json:"project_id,omitempty" db:"project_id"`
	Name         string          `json:"name" db:"name"`
	Version      string          `json:"version" db:"version"`
	Digest       string          `json:"digest" db:"digest"`
	SizeBytes    int64           `json:"size_bytes" db:"size_bytes"`
	DiskBytes    int64           `json:"min_disk_bytes" db:"disk_bytes"`
	Format       string          `json:"format" db:"format"`
	Driver       string          `json:"driver,omitempty" db:"driver"`
	Fabric       string          `json:"fabric,omitempty" db:"fabric"`
	SecureBoot   bool            `json:"secure_boot" db:"secure_boot"`
	ReportsReady bool            `json:"reports_ready" db:"reports_ready"`
	Needs        domain.Features `json:"needs" db:"needs"`
	CreatedAt    domain.Time     `json:"created_at" db:"created_at"`
	RetiredAt    domain.Time     `json:"retired_at,omitzero" db:"retired_at"`
}

func (i Image) place() cursor { return cursor{a: i.Number} }

const selectImages = `SELECT number, id, tenant_id, project_id, name, version, digest, size_bytes, disk_bytes, format, driver, fabric, secure_boot, reports_ready, needs, created_at, retired_at FROM images`

// Images lists the site's images, or (with a project) that project's own; retired
// ones only if they are asked for.
func (r *Reader) Images(ctx context.Context, scope Scope, project domain.ProjectID, retired bool, o ListOptions) (page Page[Image], err error) {
	page.N, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		if !project.IsZero() {
			if err := v.requireProject(ctx, project); err != nil {
				return err
			}
		}
		var f filter
		f.add("project_id = ?", project.String())
		if !retired {
			f.add("retired_at IS NULL")
		}
		page, err = list[Image](ctx, v, listImages, selectImages, f, []string{"number"}, o)
		return err
	})
	return page, err
}

// Image reads one.
func (r *Reader) Image(ctx context.Context, scope Scope, id domain.ImageID) (i Image, n uint64, err error) {
	n, err = r.view(ctx, scope, func(ctx context.Context, v *view) error {
		i, err = get[Image](ctx, v, "image", selectImages+` WHERE id = $1`, id.String())
		return err
	})
	return i, n, err
}
