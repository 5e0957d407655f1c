package pglocal

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// ErrNotInstalled says that no Postgres was found, and how to get one.
var ErrNotInstalled = errors.New("no Postgres found (initdb and postgres, on PATH or in the usual places): " +
	"install it with `apt-get install postgresql`, `dnf install postgresql-server` or `brew install postgresql`, " +
	"or use a database of your own with --database-url")

// wellKnown are where packages put Postgres without putting it on PATH.
var wellKnown = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// findPrograms returns the directory with initdb and postgres. Debian links only
// some of them into PATH, so links are followed to where all of them are.
func findPrograms() (string, error) {
	var dirs []string
	for _, name := range []string{"initdb", "pg_ctl"} {
		if path, err := exec.LookPath(name); err == nil {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				dirs = append(dirs, filepath.Dir(real))
			}
		}
	}
	for _, pattern := range wellKnown {
		found, _ := filepath.Glob(pattern)
		slices.Sort(found)
		slices.Reverse(found) // newest first
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", ErrNotInstalled
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
