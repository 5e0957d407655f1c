// Package program runs other programs of the host. [Run] is the one way out into
// them, so that tests compare the arguments.
package program

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Run runs a program and returns what it printed, to the end or until ctx ends. An
// error ends with the program's last words.
type Run func(ctx context.Context, name string, args ...string) ([]byte, error)

// Execute is the real [Run]. A daemon that the program leaves behind is waited for
// no longer than WaitDelay, in case it keeps the pipes open.
func Execute(ctx context.Context, name string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", name, err, LastWords(stderr.String()+stdout.String()))
		if ctx.Err() != nil {
			err = fmt.Errorf("%s: %w", name, ctx.Err())
		}
	}
	return stdout.Bytes(), err
}

// LastWords is the end of what a program said, in one line.
func LastWords(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 400 {
		s = "..." + s[len(s)-400:]
	}
	return s
}

// Missing returns those of the programs that are not on this host, in the folders
// that [Execute] looks in.
func Missing(programs ...string) (missing []string) {
	for _, p := range programs {
		if !onPath(p) {
			missing = append(missing, p)
		}
	}
	return missing
}

func onPath(name string) bool {
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return true
		}
	}
	return false
}
