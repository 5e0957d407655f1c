package commands

import (
	"encoding/binary"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// LogicLevel is the highest logic level this build decides at.
const LogicLevel = domain.LogicLevel

// startWriter opens this writer's term: the first decision of its first commit.
func (l *Loop) startWriter(open *pending) error {
	level := uint32(LogicLevel)
	if has := l.core.World().LogicLevel; l.o.KeepLevel && has != 0 {
		level = min(level, has)
	}
	cmd := l.systemCommand(&domain.StartWriter{Site: l.o.Site, Build: l.o.Build, LogicLevel: level})
	r := l.core.Decide(domain.TimeOf(l.o.Clock()), cmd)
	if r.Err != nil {
		return r.Err
	}
	open.events = append(open.events, r.Events...)
	return nil
}

func (l *Loop) systemCommand(body domain.CommandBody) *domain.Command {
	cmd := &domain.Command{Actor: domain.System, Body: body}
	l.fill(cmd)
	cmd.ID = NewCommandID(l.o.Clock(), cmd.Entropy)
	return cmd
}

// fill adds the entropy that all ids and nonces of the decision derive from.
func (l *Loop) fill(cmd *domain.Command) {
	for i := 0; i < len(cmd.Entropy); i += 8 {
		binary.LittleEndian.PutUint64(cmd.Entropy[i:], l.entropy.Uint64())
	}
}

// NewCommandID makes a UUIDv7 (RFC 9562): 48 bits of time, then entropy.
func NewCommandID(now time.Time, e domain.Entropy) domain.CommandID {
	var id domain.CommandID
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16)
	copy(id[6:], e[22:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}
