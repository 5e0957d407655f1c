package journal

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/gpuaas/gpuaas/domain"
)

// write makes a record durable, then true.
func (j *Journal) write(r *record) error {
	if j.closed {
		return ErrClosed
	}
	if j.worthRewriting() {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	if err := j.writeFrame(r, !j.o.NoSync); err != nil {
		return err
	}
	j.apply(r)
	return nil
}

// worthRewriting reports whether most of the file is of no use any more, and is
// much, or stands in the way.
func (j *Journal) worthRewriting() bool {
	kept := j.live + j.base
	return j.size > rewriteMinBytes+2*kept || j.size > j.o.MaxBytes/2 && kept < j.o.MaxBytes/4
}

// writeFrame appends one record to the file. A write that fails may leave half a
// frame, after which nothing may follow: the file is rewritten or the journal ends.
func (j *Journal) writeFrame(r *record, sync bool) error {
	b := frame(r.encode())
	if len(b) > recordMaxBytes {
		return fmt.Errorf("journal record of %d bytes: at most %d", len(b), recordMaxBytes)
	}
	if j.size+int64(len(b)) > j.o.MaxBytes {
		return ErrFull
	}
	_, err := j.file.Write(b)
	if err == nil && sync {
		err = j.file.Sync()
	}
	if err != nil {
		// The kernel may have dropped the dirty pages: a second fsync would lie. Only
		// a new file says again what is durable.
		if again := j.rewrite(); again != nil {
			j.closed = true
		}
		return fmt.Errorf("append to journal: %w", err)
	}
	j.size += int64(len(b))
	return nil
}

// renew begins the journal anew: another id, facts and pending reports carried
// over, the reports with new numbers and signatures. On an error it is as it was.
func (j *Journal) renew() (err error) {
	pending := j.queue
	id, last, acked, live := j.id, j.last, j.acked, j.live
	defer func() {
		if err != nil {
			j.id, j.last, j.acked, j.live, j.queue = id, last, acked, live, pending
		}
	}()
	if _, err := io.ReadFull(j.o.Rand, j.id[:]); err != nil {
		return fmt.Errorf("make journal id: %w", err)
	}
	j.last, j.acked, j.queue, j.live = 0, 0, nil, 0
	for _, e := range pending {
		s, err := domain.DecodeSignedReport(e.Signed)
		if err != nil {
			return fmt.Errorf("report %d: %w", e.Number, err)
		}
		r, err := domain.DecodeReport(s.Report)
		if err != nil {
			return fmt.Errorf("report %d: %w", e.Number, err)
		}
		again, err := j.sign(r, j.last+1)
		if err != nil {
			return err
		}
		j.apply(&record{entry: again})
	}
	return j.rewrite()
}

// rewrite puts what is still needed into a new file in the old one's place.
func (j *Journal) rewrite() error {
	b := frame((&record{header: true, id: j.id, last: j.acked, acked: j.acked, change: Change{Set: j.facts}}).encode())
	if len(b) > recordMaxBytes {
		return fmt.Errorf("rewrite journal: %d facts take %d bytes, at most %d", len(j.facts), len(b), recordMaxBytes)
	}
	base := int64(len(b))
	for _, e := range j.queue {
		b = append(b, frame((&record{entry: e}).encode())...)
	}
	f, err := replaceFile(j.path(), b, !j.o.NoSync)
	if err != nil {
		return fmt.Errorf("rewrite journal: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close() // the old file has no name any more
	}
	j.file, j.size, j.base = f, int64(len(b)), base
	return nil
}

// replaceFile writes b to a new file and renames it into place: after a crash
// there is the old file or the new one. It returns the new one, open for append.
func replaceFile(path string, b []byte, sync bool) (*os.File, error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, fileMode)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err == nil && sync {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil && sync {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
