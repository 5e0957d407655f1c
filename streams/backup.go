package streams

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gpuaas/gpuaas/domain"
)

// A backup is a file of frames (subject, data) with the SHA-256 of all of them at the
// end: the commits of the log in order, up to where it ended when the backup began, then
// the vault's documents and wrapped keys. A document is durable before the log names it, so
// the vault has all that these commits name. Everything else is made from the log.

// backupMagic begins the file.
const backupMagic = "gpuaas-backup-1\n"

// Backed is what a backup holds.
type Backed struct {
	Head      domain.Head // of the last commit
	Documents int         // and wrapped keys
	Bytes     int64
}

// Backup copies log and vault of a site that may run, with the administrator's
// connection: the runtime may not list the vault.
func Backup(ctx context.Context, dial Dial, l *Log, w io.Writer) (b Backed, err error) {
	nc, js, err := connectJetStream(dial, "backup")
	if err != nil {
		return b, err
	}
	defer nc.Close()
	out := &frameWriter{w: bufio.NewWriterSize(w, 1<<20), sum: sha256.New()}
	if err := out.raw([]byte(backupMagic)); err != nil {
		return b, err
	}
	var chain Chain
	named := map[string]uint64{} // documents that the log names, and where
	if err := l.Read(ctx, 1, func(_ uint64, data []byte) error {
		if err := chain.Next(data); err != nil {
			return err
		}
		c, err := domain.DecodeCommitEvents(data)
		if err != nil {
			return err
		}
		for _, d := range c.Documents() {
			named[l.c.Site.documentSubject(hex.EncodeToString(d[:]))] = c.N
		}
		return out.frame(l.c.Site.LogSubject(), data)
	}); err != nil {
		return b, err
	}
	b.Head = chain.Head
	for stream, subject := range map[string]string{l.c.Site.Vault(): l.c.Site.documentSubject("*"), l.c.Site.VaultKeys(): l.c.Site.keySubject("*")} {
		info, err := streamInfo(ctx, js, stream)
		if err != nil {
			return b, err
		}
		if info.State.Msgs == 0 {
			continue
		}
		read := map[uint64]bool{}
		t := tail{js: js, stream: stream, filters: []string{subject}, next: 1, end: info.State.LastSeq, grace: l.c.LostTailGrace, fn: func(m message) error {
			b.Documents++
			delete(named, m.subject)
			read[m.seq] = true
			return out.frame(m.subject, m.data)
		}}
		err = t.run(ctx)
		if err == nil {
			err = allRead(ctx, js, info.State, stream, read)
		}
		if err != nil {
			return b, fmt.Errorf("%s: %w", stream, err)
		}
	}
	for subject, n := range named {
		return b, fmt.Errorf("%s: %s, which commit %d names, is not there: its file was damaged", l.c.Site.Vault(), subject, n)
	}
	b.Bytes, err = out.end()
	return b, err
}

// allRead wants every message that a stream had, and that was not deleted since: the server
// passes over one that is damaged.
func allRead(ctx context.Context, js jetstream.JetStream, had jetstream.StreamState, stream string, read map[uint64]bool) error {
	if uint64(len(read)) == had.Msgs {
		return nil
	}
	ctx, cancel := ask(ctx)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	now, err := s.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return err
	}
	for _, seq := range now.State.Deleted {
		read[seq] = true
	}
	for seq := max(had.FirstSeq, now.State.FirstSeq); seq <= had.LastSeq; seq++ {
		if !read[seq] {
			return fmt.Errorf("message %d cannot be read: its file is damaged", seq)
		}
	}
	return nil
}

// restoreWindow bounds the messages on their way to the server.
const restoreWindow = 256

// restoring marks a log that is being restored, in its stream's configuration: a site does
// not start on a log that drifted, so half a log is never taken for a whole one.
const restoring = "gpuaas-restoring"

// Restore makes the streams of a site from a backup, on a server or cluster that does not
// have its log. One that was interrupted begins anew; until it has ended, a site refuses to
// start on what is there. The file is read to its end before that.
func Restore(ctx context.Context, admin *nats.Conn, dial Dial, c Config, r io.Reader) (b Backed, err error) {
	js, err := jetstream.New(admin)
	if err != nil {
		return b, err
	}
	if err := c.beginRestore(ctx, js); err != nil {
		return b, err
	}
	drifts, err := Setup(ctx, admin, c)
	if err != nil {
		return b, err
	}
	for _, d := range drifts {
		if d.Stream != c.Site.Log() || d.Field != "Metadata" {
			return b, errors.New(d.String())
		}
	}
	if b, err = fill(ctx, dial, c.Site, r); err != nil {
		return b, err
	}
	asked, cancel := ask(ctx)
	defer cancel()
	if _, err := js.UpdateStream(asked, c.log()); err != nil {
		return b, fmt.Errorf("end the restore of %s: %w", c.Site.Log(), err)
	}
	return b, nil
}

// beginRestore makes the log, marked. What an interrupted restore left, nobody can have used.
func (c Config) beginRestore(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := ask(ctx)
	defer cancel()
	interrupted := false
	for _, name := range []string{c.Site.Log(), c.Site.Vault()} {
		s, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		info := s.CachedInfo()
		interrupted = interrupted || info.Config.Metadata[restoring] != ""
		if !interrupted && info.State.LastSeq > 0 {
			return fmt.Errorf("%s is not empty: a backup is restored beside a site, never over one", name)
		}
	}
	// What a process made that was started too early says nothing, not even its keys, and what an
	// interrupted restore left nobody can have used. The log, with its mark, goes last.
	for _, want := range slices.Backward(c.wanted()) {
		if err := js.DeleteStream(ctx, want.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete %s, to make it anew: %w", want.Name, err)
		}
	}
	log := c.log()
	log.Metadata = map[string]string{restoring: "not ended: run gpuaas site restore again"}
	if _, err := js.CreateStream(ctx, log); err != nil {
		return fmt.Errorf("create %s: %w", log.Name, err)
	}
	return nil
}

// log is the wanted configuration of the log.
func (c Config) log() jetstream.StreamConfig { return c.wanted()[0] }

// fill copies a backup into empty streams, with the runtime's connection.
func fill(ctx context.Context, dial Dial, site Names, r io.Reader) (b Backed, err error) {
	nc, js, err := connectJetStream(dial, "restore")
	if err != nil {
		return b, err
	}
	defer nc.Close()
	in := &frameReader{r: bufio.NewReaderSize(r, 1<<20), sum: sha256.New()}
	if magic, err := in.raw(len(backupMagic)); err != nil || string(magic) != backupMagic {
		return b, errors.New("this is no backup of a site")
	}
	var chain Chain
	var sent []jetstream.PubAckFuture
	commits := uint64(0)
	for { // ends with the file
		subject, data, err := in.frame()
		if err != nil {
			return b, err
		}
		if subject == "" {
			break
		}
		msg := &nats.Msg{Subject: subject, Data: data}
		switch {
		case subject == site.LogSubject():
			if err := chain.Next(data); err != nil {
				return b, err
			}
			msg.Header = nats.Header{jetstream.ExpectedLastSeqHeader: {fmt.Sprint(commits)}}
			commits++
		case strings.HasPrefix(subject, site.documentSubject("")), strings.HasPrefix(subject, site.keySubject("")):
			b.Documents++
		default:
			return b, fmt.Errorf("the backup is of another site: it has %q", subject)
		}
		f, err := js.PublishMsgAsync(msg)
		if err != nil {
			return b, err
		}
		if sent = append(sent, f); len(sent) == restoreWindow {
			if err := acknowledged(ctx, sent); err != nil {
				return b, err
			}
			sent = sent[:0]
		}
	}
	b.Head, b.Bytes = chain.Head, in.n
	return b, acknowledged(ctx, sent)
}

func acknowledged(ctx context.Context, sent []jetstream.PubAckFuture) error {
	for _, f := range sent {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

type frameWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	n   int64
}

func (f *frameWriter) raw(b []byte) error {
	f.sum.Write(b)
	f.n += int64(len(b))
	_, err := f.w.Write(b)
	return err
}

func (f *frameWriter) frame(subject string, data []byte) error {
	head := protowire.AppendVarint(nil, uint64(len(subject)))
	head = append(head, subject...)
	head = protowire.AppendVarint(head, uint64(len(data)))
	if err := f.raw(head); err != nil {
		return err
	}
	return f.raw(data)
}

// end writes an empty frame and the sum.
func (f *frameWriter) end() (int64, error) {
	if err := f.raw([]byte{0}); err != nil {
		return 0, err
	}
	if _, err := f.w.Write(f.sum.Sum(nil)); err != nil {
		return 0, err
	}
	return f.n + sha256.Size, f.w.Flush()
}

type frameReader struct {
	r   *bufio.Reader
	sum hash.Hash
	n   int64
}

func (f *frameReader) raw(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(f.r, b); err != nil {
		return nil, fmt.Errorf("the backup is cut short: %w", err)
	}
	f.sum.Write(b)
	f.n += int64(n)
	return b, nil
}

// length reads one that is at most most.
func (f *frameReader) length(most int) (int, error) {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b, err := f.raw(1)
		if err != nil {
			return 0, err
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			if v > uint64(most) {
				break
			}
			return int(v), nil
		}
	}
	return 0, errors.New("the backup is damaged: a length that cannot be")
}

// frame is the next one, "" after the last, whose sum is right.
func (f *frameReader) frame() (subject string, data []byte, err error) {
	n, err := f.length(256)
	if err != nil {
		return "", nil, err
	}
	if n == 0 {
		want := f.sum.Sum(nil)
		have := make([]byte, sha256.Size)
		if _, err := io.ReadFull(f.r, have); err != nil || string(have) != string(want) {
			return "", nil, errors.New("the backup is damaged: its sum is another")
		}
		f.n += sha256.Size
		return "", nil, nil
	}
	b, err := f.raw(n)
	if err != nil {
		return "", nil, err
	}
	if n, err = f.length(maxMessageBytes + MaxDocumentBytes); err != nil {
		return "", nil, err
	}
	data, err = f.raw(n)
	return string(b), data, err
}
