// Package streams is the only code that knows JetStream. Everything durable that
// leaves or enters a site passes here:
//
//	LOG_<site>         the one truth: a commit a message, never changed, never deleted
//	FEED_<site>        one message an event, a function of the log
//	PLACEMENTS_<site>  the desired state of each host, last message kept
//	REPORTS_<site>     evidence from hosts, kept until it became commands
//	AUDIT_<site>       denials and other noise that must not reach the log; bounded
//	VAULT_<site>       documents encrypted under a key per subject
//	VAULTKEYS_<site>   those keys, wrapped; never mirrored; deleting one erases its subject
//	CLAIM_<site>       which process should write: a hint with an expiry
//
// What it may not do: decide anything, read a commit for more than its header and
// its events, or answer "not done" from a read (see [Log.Append]). It imports
// domain and nothing else of this project. The embedded server is in
// streams/server, the host's side in streams/hostlink.
//
// Where to start reading: names.go (streams and subjects), setup.go (their exact
// configuration), append.go (the fence, and what an ambiguous answer means),
// read.go (ordered reading that notices a lost or forked tail), fanout.go.
//
// # The caller's duties
//
//  1. One Append at a time, by one goroutine, and the next one only after the last
//     was acknowledged.
//  2. On [ErrDeposed], [ErrUnknown], [ErrForked] or [ErrLostTail] the process ends
//     and starts again from the log: nothing it holds in memory can be believed.
//  3. Every fold runs a [Chain] over what it reads.
//  4. Set-up ([Setup]) runs with the administrator's credential, everything else
//     with the runtime's, which cannot change or delete the log.
package streams
