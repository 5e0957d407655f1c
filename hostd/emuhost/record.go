package emuhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

// A record is what QEMU's blklogwrites keeps, in the format of Linux's dm-log-writes
// (Documentation/admin-guide/device-mapper/log-writes.rst): a sector about the whole,
// which is not needed here, then for each request a sector that describes it and its
// data. A request is in it when it was done; see [Disk].
const (
	recordSuffix = ".writes"
	sectorBytes  = 512

	entryFlush = 1 << 0
	entryFUA   = 1 << 1
)

// Record is all that a [Disk] was asked to keep since its host was switched on.
type Record struct {
	f       *os.File
	entries []entry
}

// entry is one request.
type entry struct {
	sector, sectors int64 // on the disk
	flags           uint64
	data            int64 // where its data is in the record
}

func (e entry) end() int64 { return e.data + e.sectors*sectorBytes }

// RecordBytes is how far the record of a disk is by now. Whatever a host answers after
// that, it had written before: a power cut there or later does not undo it.
func RecordBytes(disk string) (int64, error) {
	info, err := os.Stat(disk + recordSuffix)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// OpenRecord reads the record of a disk whose host is off.
func OpenRecord(disk string) (*Record, error) {
	f, err := os.Open(disk + recordSuffix)
	if err != nil {
		return nil, err
	}
	r := &Record{f: f}
	if err := r.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("emuhost: the record of %s: %w", disk, err), f.Close())
	}
	return r, nil
}

// Close closes the file.
func (r *Record) Close() error { return r.f.Close() }

func (r *Record) read() error {
	info, err := r.f.Stat()
	if err != nil {
		return err
	}
	for at := int64(sectorBytes); at+sectorBytes <= info.Size(); {
		var b [4 * 8]byte
		if _, err := r.f.ReadAt(b[:], at); err != nil {
			return err
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		e := entry{sector: int64(word(0)), sectors: int64(word(1)), flags: word(2), data: at + sectorBytes}
		if e.flags&^uint64(entryFlush|entryFUA) != 0 || e.sectors == 0 && e.flags&entryFlush == 0 || e.sectors < 0 || e.end() > info.Size() {
			return fmt.Errorf("at byte %d: %d sectors with flags %#x, the file ends at %d", at, e.sectors, e.flags, info.Size())
		}
		r.entries = append(r.entries, e)
		at = e.end()
	}
	return nil
}

// Left is what a power cut left.
type Left struct {
	At               int64 // bytes of the record
	Durable          int   // writes that a flush covers
	Kept, Lost, Torn int   // of the writes after it
}

// Moment is a place of the record at which the power can be cut.
type Moment struct {
	At        int64 // bytes of the record
	Unflushed int   // writes since the last flush
}

// Moments are those between two sizes of the record: after each request.
func (r *Record) Moments(from, to int64) (out []Moment) {
	unflushed := 0
	for _, e := range r.entries {
		if unflushed++; e.flags&entryFlush != 0 {
			unflushed = 0
		}
		if e.end() > from && e.end() <= to {
			out = append(out, Moment{e.end(), unflushed})
		}
	}
	return out
}

// Replay brings a copy of the disk, as it was when the host was switched on, to what it is.
func (r *Record) Replay(disk string) error {
	return r.write(disk, func(w *os.File) error {
		for _, e := range r.entries {
			if err := r.apply(w, e, 0, e.sectors); err != nil {
				return err
			}
		}
		return nil
	})
}

// Cut brings a copy of the disk, as it was when the host was switched on, to what a power
// cut leaves at a moment: all that was flushed before, and of every later write all, nothing,
// or some of its sectors.
func (r *Record) Cut(disk string, at int64, random *rand.Rand) (left Left, err error) {
	left.At = at
	n, flushed := 0, -1
	for ; n < len(r.entries) && r.entries[n].end() <= at; n++ {
		if r.entries[n].flags&entryFlush != 0 {
			flushed = n
		}
	}
	return left, r.write(disk, func(w *os.File) error {
		for i, e := range r.entries[:n] {
			switch kind := random.IntN(3); {
			case e.sectors == 0:
				continue
			case i <= flushed || e.flags&entryFUA != 0:
				left.Durable++
			case kind == 0 || kind == 1 && e.sectors == 1:
				left.Lost++
				continue
			case kind == 1:
				left.Torn++
				for s := range e.sectors {
					if random.IntN(2) == 0 {
						if err := r.apply(w, e, s, 1); err != nil {
							return err
						}
					}
				}
				continue
			default:
				left.Kept++
			}
			if err := r.apply(w, e, 0, e.sectors); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Record) write(disk string, f func(*os.File) error) error {
	w, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f(w), w.Close())
}

// apply writes some sectors of a request.
func (r *Record) apply(w *os.File, e entry, first, sectors int64) error {
	in := io.NewSectionReader(r.f, e.data+first*sectorBytes, sectors*sectorBytes)
	_, err := io.Copy(io.NewOffsetWriter(w, (e.sector+first)*sectorBytes), in)
	return err
}
