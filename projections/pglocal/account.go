package pglocal

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who the server runs as. Postgres refuses to run as root, so root
// drops to the postgres user, or to nobody.
type account struct{ uid, gid int }

func chooseAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{os.Geteuid(), os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid != 0 {
			return account{uid, gid}, nil
		}
	}
	return account{}, fmt.Errorf("Postgres refuses to run as root, and there is no user postgres or nobody to run it as")
}

// dropped reports whether the account is another one than ours.
func (a account) dropped() bool { return a.uid != os.Geteuid() }

// ownDir makes a 0700 directory that belongs to the account.
func (a account) ownDir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != a.uid {
		if int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%s belongs to user %d, want %d", path, st.Uid, a.uid)
		}
		if err := os.Chown(path, a.uid, a.gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o700)
}

// canReach says which directory on the way to path the account may not enter; ""
// is none.
func (a account) canReach(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil {
			st, ok := info.Sys().(*syscall.Stat_t)
			bit := os.FileMode(0o001)
			switch {
			case ok && int(st.Uid) == a.uid:
				bit = 0o100
			case ok && int(st.Gid) == a.gid:
				bit = 0o010
			}
			if info.Mode()&bit == 0 {
				return dir
			}
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}
