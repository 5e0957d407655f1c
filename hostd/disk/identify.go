package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"
)

// signature is bytes at a place that name a format. The places are from the
// formats' own definitions, as libblkid knows them.
type signature struct {
	at    int64
	magic string
	name  string
}

var signatures = []signature{
	{0, "LUKS\xba\xbe", "LUKS"},
	{512, "LABELONE", "LVM physical volume"},
	{0, "LABELONE", "LVM physical volume"},
	{4096, "\xfc\x4e\x2b\xa9", "Linux RAID member"},
	{0, "XFSB", "xfs"},
	{1080, "\x53\xef", "ext2/3/4"},
	{65600, "_BHRfS_M", "btrfs"},
	{3, "NTFS    ", "ntfs"},
	{3, "EXFAT   ", "exfat"},
	{82, "FAT32   ", "vfat"},
	{54, "FAT16   ", "vfat"},
	{4086, "SWAPSPACE2", "swap"},
	{32769, "CD001", "iso9660"},
}

// Identify is [IdentifyReader] of the file at path, which may be a block device.
func Identify(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("disk: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // a block device's Stat says 0
	if err != nil {
		return "", fmt.Errorf("disk: %w", err)
	}
	return IdentifyReader(f, size)
}

// IdentifyReader says in a few words what is on the drive of size bytes, for a
// person who decides whether it may be erased: "empty" is said only when every
// byte is zero. It reads the drive's beginning, or all of it when that says
// nothing (of a file: all that is stored), in pieces of at most 1 MiB at multiples
// of 1 MiB. It never interprets more than names and counts, so hostile content
// gets at worst a wrong name. A reader that has to be bounded in time returns an
// error of its own.
func IdentifyReader(r io.ReaderAt, size int64) (string, error) {
	if size <= 0 {
		return "", fmt.Errorf("disk: a drive of %d bytes: has it a medium?", size)
	}
	head := make([]byte, min(128<<10, size))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return "", fmt.Errorf("disk: %w", err)
	}
	if s := partitions(head); s != "" {
		return s, nil
	}
	for _, s := range signatures {
		if int(s.at)+len(s.magic) <= len(head) && string(head[s.at:int(s.at)+len(s.magic)]) == s.magic {
			return s.name, nil
		}
	}
	empty, err := storedZero(r, size)
	switch {
	case err != nil:
		return "", err
	case empty:
		return "empty", nil
	}
	return "data of an unknown kind", nil
}

// partitions names the partition table and what is in it, "" if there is none. A
// GPT's header is in the second logical block, of 512 or 4096 bytes.
func partitions(h []byte) string {
	for _, lba := range []int{512, 4096} {
		if len(h) >= lba+512 && string(h[lba:lba+8]) == "EFI PART" {
			return "GPT" + gptNames(h, lba)
		}
	}
	if len(h) < 512 || h[510] != 0x55 || h[511] != 0xaa {
		return ""
	}
	used := 0
	for i := range 4 {
		if h[446+16*i+4] != 0 { // the entry's type
			used++
		}
	}
	if used == 0 || strings.HasPrefix(string(h[82:]), "FAT32") || strings.HasPrefix(string(h[54:]), "FAT") || string(h[3:7]) == "NTFS" {
		return "" // a file system's boot sector, not a table
	}
	return fmt.Sprintf("MBR, %d partitions", used)
}

// gptNames lists the first partitions' names (UEFI specification, 5.3.3).
func gptNames(h []byte, lba int) string {
	le := binary.LittleEndian
	table := int(min(le.Uint64(h[lba+72:]), 64)) * lba
	count, size := int(min(le.Uint32(h[lba+80:]), 128)), int(min(le.Uint32(h[lba+84:]), 4096))
	if size < 128 {
		return ""
	}
	var names []string
	for i := range count {
		at := table + i*size
		if at+128 > len(h) {
			break
		}
		e := h[at : at+128]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		u := make([]uint16, 36)
		for j := range u {
			u[j] = le.Uint16(e[56+2*j:])
		}
		name := strings.Map(printable, strings.TrimRight(string(utf16.Decode(u)), "\x00"))
		if name == "" {
			name = "unnamed"
		}
		names = append(names, name)
	}
	if len(names) > 4 {
		names = append(names[:4], "...")
	}
	return fmt.Sprintf(", %d partitions: %s", len(names), strings.Join(names, ", "))
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// storedZero says whether all of r is zero; it stops at the first byte that is
// not. Of a file only what the file system stores is read.
func storedZero(r io.ReaderAt, size int64) (bool, error) {
	stored := []extent{{0, size}}
	if f, ok := r.(*os.File); ok {
		stored = extents(f, size)
	}
	buf := make([]byte, chunkBytes)
	for _, e := range stored {
		for at := e.from; at < e.to; {
			n := min(int64(len(buf)), e.to-at)
			if got, err := r.ReadAt(buf[:n], at); int64(got) < n {
				return false, fmt.Errorf("disk: %w", err)
			}
			if !blank(buf[:n]) {
				return false, nil
			}
			at += n
		}
	}
	return true, nil
}
