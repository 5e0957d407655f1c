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
	// A member of a cluster that is shut down while it makes a stream's store leaves the
	// store open (seen in server 2.15.2, once in some twenty runs on a busy machine): the
	// server's, not ours.
	const server = "github.com/nats-io/nats-server/v2/server."
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction(server+"(*fileStore).flushStreamStateLoop"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}
