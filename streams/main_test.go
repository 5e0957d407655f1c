package streams_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killEnv); dir != "" {
		fmt.Fprintln(os.Stderr, writerProcess(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
