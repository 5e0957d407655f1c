// Package server runs one embedded NATS server with JetStream, and the trust it
// checks credentials against. It is linked into the control plane, never into
// hostd.
//
// # Trust
//
// The server runs in operator mode: every connection proves an nkey and shows a JWT
// that the site's operator signed, through one of two accounts:
//
//	SYS   the servers' own; used to hand out a changed account (a revocation)
//	SITE  everything else: the streams, the control plane, the hosts
//
// Why one account for control plane and hosts, and not one each: a host needs the
// acknowledgement of its reports, pulls from a durable consumer, and acknowledges
// to $JS.ACK. Across accounts each of these is an export and an import with
// rewritten reply subjects, per host, and the deliver and acknowledge subjects of
// JetStream have to be exported as a whole: more to get wrong, and nothing that a
// host's own allow-list does not already refuse. What keeps the trust domains apart
// instead is who can sign: SITE has one *scoped signing key* for each role, and the
// rights of a role are in the account's JWT, not in the user's. So whoever holds
// the host role's key (the control plane, at enrolment) can make hosts and nothing
// else, whatever is written into the user JWT. Rights are allow-lists only; there
// is no user without a credential.
//
//	Admin      creates and repairs streams; used at set-up only, best kept elsewhere
//	Runtime    appends, publishes, consumes; cannot change, delete or purge a stream
//	Responder  heartbeats in, answers to hosts' requests and forwarded commands
//	Host       one host's own subjects, by the user's name in the template
//	System     the SYS account: only [Trust.Revoke]
//
// Responder is apart from Runtime because "may answer whoever asked" makes the
// server remember every reply subject it delivers, which would cost the readers of
// the log dearly.
//
// # Durability
//
// sync_interval is always, server-wide, and cannot be switched off here: an
// acknowledgement by default is not durable for two minutes.
package server
