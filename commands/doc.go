// Package commands is the decision loop: it takes commands that wait, decides
// each against the world, makes what follows durable as one commit of the log, and
// only then answers.
//
// Core is the loop without goroutines, clocks or I/O: what a simulation runs. Loop
// puts it to work: a bounded fair queue in front, one append in flight behind,
// ticks when deadlines are due. Directory is what the edge needs to know at once
// about keys and people.
//
// What it may not do: answer before all state it read is durable; decide again
// what was already decided; go on after an append whose outcome is unknown (the
// process ends and the next start reads what the log holds).
//
// Start reading at core.go.
package commands
