package pglocal

import "syscall"

// attributes are for a program run as the account. A tied one dies with its parent,
// however that ends: SIGINT is a fast shutdown. The kernel ties it to the thread
// that started it.
func (a account) attributes(tied bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if tied {
		attr.Pdeathsig = syscall.SIGINT
	}
	if a.dropped() {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}
