// Package wire is what the emulated host's agent and the test outside say to each
// other over a virtio-serial port: one JSON value a line, in both directions. A
// port rather than a network, because networks are what hostd changes.
package wire

// PortName is the virtio-serial port's, as the guest sees it.
const PortName = "org.gpuaas.emuhost.0"

// MaxLineBytes bounds a line; output is cut into pieces far below.
const MaxLineBytes = 1 << 20

// Request is what the test asks for: exactly one of its parts.
type Request struct {
	ID     uint64   `json:"id"` // of the command; unique in one boot
	Run    *Command `json:"run,omitempty"`
	Signal int      `json:"signal,omitempty"` // sent to the process group of a command that runs
	Power  string   `json:"power,omitempty"`  // PowerOff or Reboot: everything is stopped and written first
}

// What Request.Power may be.
const (
	PowerOff = "off"
	Reboot   = "reboot"
)

// Command is a program to run.
type Command struct {
	Args  []string `json:"args"`          // looked up on PATH
	Env   []string `json:"env,omitempty"` // added to the agent's
	Dir   string   `json:"dir,omitempty"`
	Stdin []byte   `json:"stdin,omitempty"`
}

// Answer is what the agent says: hello once a boot, then output and the end of
// commands.
type Answer struct {
	Hello  string `json:"hello,omitempty"` // the kernel's boot id
	ID     uint64 `json:"id,omitempty"`
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	Done   bool   `json:"done,omitempty"`
	Exit   int    `json:"exit,omitempty"`  // with Done: the exit code; 128 + signal when killed by one
	Error  string `json:"error,omitempty"` // with Done: why nothing ran
}
