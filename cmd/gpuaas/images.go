package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// imageSweep is the pause between two looks for what the image store need not keep.
const imageSweep = time.Hour

// registerImages puts what is in the directory of images into the catalog, through
// ordinary commands: NAME.qcow2, NAME.raw and NAME.img are versions of the site's
// image NAME. A file that changed is its next version. What cannot be used is said,
// and does not keep the site from starting.
func (s *site) registerImages(ctx context.Context) error {
	if s.cfg.Images == "" {
		return nil
	}
	entries, err := os.ReadDir(s.cfg.Images)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if ext != ".qcow2" && ext != ".raw" && ext != ".img" || e.Name()[0] == '.' {
			continue
		}
		if err := s.registerImage(ctx, filepath.Join(s.cfg.Images, e.Name()), strings.TrimSuffix(e.Name(), ext)); err != nil {
			var refused *domain.Error
			if !errors.As(err, &refused) || refused.Kind == domain.Unavailable {
				return fmt.Errorf("image %s: %w", e.Name(), err)
			}
			s.log.Warn("image not registered", "file", e.Name(), "code", refused.Code, "err", refused.Message)
		}
	}
	return nil
}

func (s *site) registerImage(ctx context.Context, path, name string) error {
	digest, content, err := s.images.Adopt(path)
	if err != nil {
		return err
	}
	r := s.submit(ctx, &domain.RegisterImage{Image: domain.ImageSpec{
		Name: name, Digest: digest, SizeBytes: content.SizeBytes, Format: content.Format, DiskBytes: content.DiskBytes,
	}})
	if r.Err != nil {
		return r.Err
	}
	if len(r.Events) > 0 {
		s.log.Info("image registered", "name", name, "digest", digest)
	}
	return nil
}

// sweepImages removes now and then what no catalog entry and no VM needs any more.
func (s *site) sweepImages(ctx context.Context) error {
	for { // ends with ctx
		err := s.images.Sweep(func(d domain.Digest) (needed bool, err error) {
			_, qerr := s.loop.Query(ctx, domain.System, func(w *domain.World, _ domain.Time) { needed = w.ImageInUse(d) })
			if qerr != nil {
				return true, qerr
			}
			return needed, nil
		})
		if err != nil && ctx.Err() == nil {
			s.log.Warn("images not swept", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(imageSweep):
		}
	}
}
