package image

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/hostd/program"
)

// BenchmarkWrite writes a qcow2 image of 512 MiB without a hole to a blank file, past
// the host's cache as to a drive: qemu-img convert alone, then Write, a few times in
// turn. write-ratio is how much of its speed the writing keeps, up to the end of the
// convert; verified-ratio counts the comparison too, which reads both again.
func BenchmarkWrite(b *testing.B) {
	const size, rounds = 512 << 20, 3
	if missing := program.Missing("qemu-img"); len(missing) > 0 {
		b.Skip("SKIPPED: qemu-img is not installed")
	}
	dir := b.TempDir()
	img, drive := filepath.Join(dir, "img"), filepath.Join(dir, "drive")
	makeImage(b, img, size)
	for b.Loop() {
		var alone, write, verified []float64
		for range rounds {
			blank(b, drive, 2*size)
			began := time.Now()
			if _, err := program.Execute(b.Context(), "qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", "-t", "none", "--target-is-zero", img, drive); err != nil {
				b.Fatal(err)
			}
			alone = append(alone, time.Since(began).Seconds())

			blank(b, drive, 2*size)
			began = time.Now()
			run := func(ctx context.Context, name string, args ...string) ([]byte, error) {
				out, err := program.Execute(ctx, name, args...)
				if args[0] == "convert" {
					write = append(write, time.Since(began).Seconds())
				}
				return out, err
			}
			if err := Write(b.Context(), run, img, Target{Path: drive, Bytes: 2 * size, Device: true, Zero: true}); err != nil {
				b.Fatal(err)
			}
			verified = append(verified, time.Since(began).Seconds())
		}
		limit := median(alone)
		b.ReportMetric(size/limit/(1<<20), "convert-MiB/s")
		b.ReportMetric(size/median(write)/(1<<20), "write-MiB/s")
		b.ReportMetric(size/median(verified)/(1<<20), "verified-MiB/s")
		b.ReportMetric(limit/median(write), "write-ratio")
		b.ReportMetric(limit/median(verified), "verified-ratio")
		b.ReportMetric(0.8, "aim-ratio")
	}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// makeImage makes a qcow2 image of random bytes.
func makeImage(b *testing.B, path string, size int) {
	b.Helper()
	raw := path + ".raw"
	f, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	random, piece := rand.NewChaCha8([32]byte{1}), make([]byte, 1<<20)
	for range size / len(piece) {
		_, _ = random.Read(piece) // never fails
		if _, err := f.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	if _, err := program.Execute(b.Context(), "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path); err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(raw); err != nil {
		b.Fatal(err)
	}
}

// blank makes the drive a file that reads as zero everywhere.
func blank(b *testing.B, path string, size int64) {
	b.Helper()
	if err := os.RemoveAll(path); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		b.Fatal(err)
	}
}
