package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/client"
)

var imageColumns = []column[client.Image]{
	{name: "NAME", cell: func(i client.Image) string { return i.Name }},
	{name: "VERSION", cell: func(i client.Image) string { return i.Version }},
	{name: "STATE", cell: func(i client.Image) string { return i.State }},
	{name: "OF", cell: func(i client.Image) string { return first(i.ProjectID, "site") }},
	{name: "SIZE", cell: func(i client.Image) string { return bytesOf(uint64(i.SizeBytes)) }},
	{name: "MIN DISK", cell: func(i client.Image) string { return bytesOf(uint64(i.MinDiskBytes)) }},
	{name: "DRIVER", cell: func(i client.Image) string { return i.Driver }},
	{name: "FABRIC", wide: true, cell: func(i client.Image) string { return i.Fabric }},
	{name: "SECURE BOOT", wide: true, cell: func(i client.Image) string { return yes(i.SecureBoot) }},
	{name: "SAYS READY", cell: func(i client.Image) string { return yes(i.ReportsReady) }},
	{name: "FORMAT", wide: true, cell: func(i client.Image) string { return i.Format }},
	{name: "DIGEST", wide: true, cell: func(i client.Image) string { return i.Digest }},
	{name: "REGISTERED", wide: true, cell: func(i client.Image) string { return when(i.CreatedAt) }},
	{name: "RETIRED", wide: true, cell: func(i client.Image) string { return when(i.RetiredAt) }},
	{name: "ID", cell: func(i client.Image) string { return i.ID }},
}

func (a *app) images() *cobra.Command {
	return group("images", "What drives are filled with: the site's images, and a project's own", []string{"image"}, a.imageList(), a.imageGet(), a.imageUpload(), a.imageCancel(), a.imageRetire())
}

// imageOwner is the project whose images are meant, empty for the site's.
func (a *app) imageOwner(ctx context.Context, site bool) (string, error) {
	if site {
		_, err := a.client()
		return "", err
	}
	return a.projectID(quiet(ctx))
}

func (a *app) imageList() *cobra.Command {
	var own, retired bool
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "The site's images; with --own the project's", Args: cobra.NoArgs}
	list.Flags().BoolVar(&own, "own", false, "the project's own")
	list.Flags().BoolVarP(&retired, "all", "a", false, "retired ones too")
	listing(a, list, imageColumns, func(ctx cx, c *client.Client, o ...client.ListOption) (iter.Seq2[client.Image, error], error) {
		project, err := a.imageOwner(ctx, !own)
		if err != nil {
			return nil, err
		}
		return c.Images(ctx, project, retired, o...), nil
	})
	return list
}

func (a *app) imageUpload() *cobra.Command {
	var n client.NewImage
	var site bool
	var resume string
	c := &cobra.Command{
		Use: "upload FILE", Short: "Upload an image (qcow2, raw) and register it", Args: cobra.ExactArgs(1),
		Long: "Upload an image and register it, as the project's own or with --site for everybody.\nAn upload that broke off is named, and goes on with --resume.",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return usage("%v", err)
			}
			defer f.Close()
			if n.Name == "" {
				n.Name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
			}
			project, err := a.imageOwner(cmd.Context(), site)
			if err != nil {
				return err
			}
			u, err := a.sendImage(quiet(cmd.Context()), project, resume, f)
			if err != nil {
				return err
			}
			n.UploadID = u.ID
			err = one(a, cmd.Context(), imageColumns, func(ctx cx, c *client.Client) (*client.Image, error) { return c.RegisterImage(ctx, project, n) })
			if err != nil {
				a.kept(u.ID)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&n.Name, "name", "", "the image's name (default: the file's)")
	f.StringVar(&n.Version, "version", "", "its version (default: the beginning of its digest)")
	f.BoolVar(&site, "site", false, "for everybody: operators only")
	f.StringVar(&n.Driver, "driver", "", "GPU driver in it: nvidia-570")
	f.StringVar(&n.Fabric, "fabric", "", "fabric software in it: doca-2.9")
	f.Int64Var(&n.MinDiskBytes, "min-disk-bytes", 0, "what a drive has to hold, if more than the image")
	f.StringSliceVar(&n.Needs, "needs", nil, "what its guests have to have: secure_boot,vtpm")
	f.BoolVar(&n.SecureBoot, "secure-boot", false, "its boot loader is signed")
	f.BoolVar(&n.ReportsReady, "reports-ready", false, "its guest says when it is ready")
	f.StringVar(&resume, "resume", "", "go on with this upload, upl_...")
	return c
}

// sendImage brings the file to the site, or the rest of it.
func (a *app) sendImage(ctx context.Context, project, resume string, f *os.File) (*client.ImageUpload, error) {
	digest, size, err := client.DigestOf(f)
	if err != nil {
		return nil, err
	}
	var u *client.ImageUpload
	if resume == "" {
		u, err = a.conn.BeginUpload(ctx, project, digest, size)
	} else if u, err = a.conn.ImageUpload(ctx, resume); err == nil && u.Digest != digest {
		err = usage("--resume %s: the upload is of another file", clean(resume))
	}
	if err != nil {
		return nil, err
	}
	id := u.ID
	done, err := a.conn.Upload(ctx, u, f, a.progress(size))
	if terminal(a.err) {
		fmt.Fprintln(a.err)
	}
	var refused *client.Problem
	if err != nil && !(errors.As(err, &refused) && strings.HasPrefix(refused.Code, "image.")) {
		a.kept(id)
	}
	return done, err
}

func (a *app) kept(upload string) {
	fmt.Fprintf(a.err, "gpuctl: what has come is kept: go on with --resume %s\n", clean(upload))
}

// progress draws a bar, where somebody looks.
func (a *app) progress(size int64) func(int64) {
	if !terminal(a.err) {
		return nil
	}
	return func(offset int64) { fmt.Fprint(a.err, "\r"+bar(offset, size)) }
}

func bar(offset, size int64) string {
	const width = 30
	full := 0
	if size > 0 {
		full = int(offset * width / size)
	}
	return fmt.Sprintf("[%s%s] %s of %s", strings.Repeat("=", full), strings.Repeat(" ", width-full), bytesOf(uint64(offset)), bytesOf(uint64(size)))
}

func (a *app) imageGet() *cobra.Command {
	var site bool
	c := getCommand(a, "get IMAGE", "Show an image; IMAGE is an id or NAME:VERSION", imageColumns, func(ctx cx, arg string) (string, error) {
		return a.imageID(ctx, arg, site)
	}, (*client.Client).Image)
	c.Flags().BoolVar(&site, "site", false, "one of the site's")
	return c
}

func (a *app) imageCancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel UPLOAD", Short: "Give up an upload that broke off, upl_...; what has come of it is removed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.AbortUpload(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.says(args[0], "cancelled")
		},
	}
}

func (a *app) imageRetire() *cobra.Command {
	var site bool
	c := &cobra.Command{
		Use: "retire IMAGE", Short: "Do not launch it any more; IMAGE is an id or NAME:VERSION", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.imageID(cmd.Context(), args[0], site)
			if err != nil {
				return err
			}
			return a.change(cmd, func(ctx cx, c *client.Client) (*client.Changed, error) { return c.RetireImage(ctx, id) })
		},
	}
	c.Flags().BoolVar(&site, "site", false, "one of the site's: operators only")
	return c
}

func (a *app) imageID(ctx context.Context, arg string, site bool) (string, error) {
	c, err := a.client()
	if err != nil || isID(arg, "img") {
		return arg, err
	}
	if !strings.Contains(arg, ":") {
		return "", usage("%q: want an image's id, or NAME:VERSION", clean(arg))
	}
	project, err := a.imageOwner(ctx, site)
	if err != nil {
		return "", err
	}
	return named("image", arg, c.Images(quiet(ctx), project, false), func(i client.Image) (string, string) { return i.ID, i.Name + ":" + i.Version }, nil)
}
