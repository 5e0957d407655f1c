package image

import (
	"context"
	"fmt"

	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Run runs a program of the host and returns what it printed, to the end or until
// ctx ends. A program that failed is an error that ends with its last words.
type Run func(ctx context.Context, name string, args ...string) ([]byte, error)

// Write puts the image onto the drive and compares the two afterwards. The drive
// must exist, keep its size and be blank: what of it lies behind the image is
// compared with zero. Faults: those of [Inspect], disk.too_small (the tenant's),
// image.compare (the drive does not hold what was written).
func Write(ctx context.Context, run Run, imagePath, drive string, driveBytes uint64) error {
	info, err := Inspect(imagePath)
	if err != nil {
		return err
	}
	if info.SizeBytes > driveBytes {
		return refuse("disk.too_small", "the image needs %d bytes, the drive has %d", info.SizeBytes, driveBytes)
	}
	// -n: the drive exists; without it qemu-img would make a file of the image's size.
	if _, err := run(ctx, "qemu-img", "convert", "-n", "-f", string(info.Format), "-O", "raw", "-t", "writeback", imagePath, drive); err != nil {
		return fmt.Errorf("image: convert: %w", err)
	}
	if _, err := run(ctx, "qemu-img", "compare", "-f", string(info.Format), "-F", "raw", imagePath, drive); err != nil {
		return &machine.Fault{Code: "image.compare", Err: err}
	}
	return nil
}
