//go:build !linux

package pglocal

import "syscall"

// attributes are for a program run as the account; here nothing can tie it to its
// parent: the next start stops what was left running.
func (a account) attributes(bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a.dropped() {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}
