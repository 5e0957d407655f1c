package emuhost

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// What [Used] can put on a drive. Each was made by the real tools when the image was
// built, and holds a file system with the text "secret of an earlier owner".
const (
	UsedGPT = "gpt" // a GPT with one ext4 partition
	UsedLVM = "lvm" // volume group tenantvg with the logical volume data: a host activates it when it sees the drive
	UsedMD  = "md"  // RAID 1 of this one drive, named tenantmd: a host assembles it when it sees the drive
)

// Used fills a drive as an earlier owner left it, for [NVMe.Fill]. The drive needs
// 64 MiB or more.
func Used(kind string) func(*os.File) error {
	return func(f *os.File) error {
		in, err := os.Open(Image("used-" + kind + ".raw"))
		if err != nil {
			return fmt.Errorf("a used drive is %s, %s or %s: %w", UsedGPT, UsedLVM, UsedMD, err)
		}
		defer in.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		content, err := in.Stat()
		if err != nil {
			return err
		}
		if info.Size() < content.Size() {
			return errors.New("the drive is smaller than 64 MiB")
		}
		return sparse(f, in)
	}
}

// sparse copies what is not zero.
func sparse(to io.WriterAt, from io.Reader) error {
	b := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(from, b)
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		for _, c := range b[:n] {
			if c != 0 {
				if _, err := to.WriteAt(b[:n], at); err != nil {
					return err
				}
				break
			}
		}
		at += int64(n)
	}
}
