package image

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/program"
)

// Target is the drive that an image goes to. It exists and keeps its size.
type Target struct {
	Path  string
	Bytes uint64
	// Device: a block device of a real drive. It is written past the host's cache, and
	// compared as far as the image goes: to read all of a large drive takes most of an
	// hour, and what lies behind the image is the last wipe's business. A file is
	// compared to its end.
	Device bool
	// Zero: every block reads as zero, so what is zero in the image is not written.
	Zero bool
}

// Check says whether the image can go to a drive of that size, before anything is
// touched. Faults: those of [Inspect], disk.too_small (the tenant's).
func Check(imagePath string, driveBytes uint64) (Info, error) {
	info, err := Inspect(imagePath)
	if err != nil {
		return Info{}, err
	}
	if info.SizeBytes > driveBytes {
		return Info{}, refuse("disk.too_small", "the image needs %d bytes, the drive has %d", info.SizeBytes, driveBytes)
	}
	return info, nil
}

// Write puts the image onto the drive and compares the two afterwards. Faults: those
// of [Check], image.compare (the drive does not hold what was written).
func Write(ctx context.Context, run program.Run, imagePath string, t Target) error {
	info, err := Check(imagePath, t.Bytes)
	if err != nil {
		return err
	}
	if _, err := run(ctx, "qemu-img", convertArguments(info, imagePath, t)...); err != nil {
		return fmt.Errorf("image: convert: %w", err)
	}
	if _, err := run(ctx, "qemu-img", compareArguments(info, imagePath, t)...); err != nil {
		return &machine.Fault{Code: "image.compare", Err: err}
	}
	return nil
}

func convertArguments(info Info, imagePath string, t Target) []string {
	// -n: the drive exists; without it qemu-img would make a file of the image's size.
	a := []string{"convert", "-n", "-f", string(info.Format), "-O", "raw"}
	if t.Device {
		// Out of order and with more in flight: a drive has no order to keep.
		a = append(a, "-t", "none", "-W", "-m", "16")
	} else {
		a = append(a, "-t", "writeback")
	}
	if t.Zero {
		a = append(a, "--target-is-zero")
	}
	return append(a, imagePath, t.Path)
}

func compareArguments(info Info, imagePath string, t Target) []string {
	if !t.Device {
		return []string{"compare", "-f", string(info.Format), "-F", "raw", imagePath, t.Path}
	}
	driver := "file"
	if st, err := os.Stat(t.Path); err == nil && st.Mode()&os.ModeDevice != 0 {
		driver = "host_device"
	}
	return []string{
		"compare", "--image-opts",
		fmt.Sprintf("driver=%s,file.driver=file,file.filename=%s", info.Format, option(imagePath)),
		// The cache is passed by, so that what is compared comes from the drive.
		fmt.Sprintf("driver=raw,size=%d,file.driver=%s,file.filename=%s,file.cache.direct=on", info.SizeBytes, driver, option(t.Path)),
	}
}

// option writes a value into a QEMU option list, where a comma ends it.
func option(s string) string { return strings.ReplaceAll(s, ",", ",,") }
