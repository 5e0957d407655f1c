package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Run runs a program of the host and returns what it printed, to the end or until
// ctx ends. It is the only way out of this package into other programs, so tests
// compare the arguments.
type Run func(ctx context.Context, name string, args ...string) ([]byte, error)

// execute is the real Run. A daemon that the program leaves behind is waited for
// no longer than WaitDelay, in case it keeps the pipes open.
func execute(ctx context.Context, name string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", name, err, lastWords(stderr.String()+stdout.String()))
		if ctx.Err() != nil {
			err = fmt.Errorf("%s: %w", name, ctx.Err())
		}
	}
	return stdout.Bytes(), err
}

// lastWords is the end of what a program said, in one line.
func lastWords(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 400 {
		s = "..." + s[len(s)-400:]
	}
	return s
}
