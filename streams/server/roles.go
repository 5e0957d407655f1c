package server

import (
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/gpuaas/gpuaas/streams"
)

// Role is what a credential is for; see the package's comment.
type Role string

// The roles.
const (
	Admin     Role = "admin"
	Runtime   Role = "runtime"
	Responder Role = "responder"
	Host      Role = "host"
	System    Role = "system"
)

// siteRoles are the roles with a scoped signing key on the SITE account.
var siteRoles = []Role{Admin, Runtime, Responder, Host}

// rights is the template of a role: all its users have exactly these rights.
func rights(role Role, n streams.Names) jwt.UserPermissionLimits {
	var u jwt.UserPermissionLimits
	u.Limits.NatsLimits = jwt.NatsLimits{Subs: jwt.NoLimit, Data: jwt.NoLimit, Payload: jwt.NoLimit}
	u.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeInProcess}
	u.Sub.Allow.Add(streams.ControlInbox + ".>")
	switch role {
	case Admin:
		u.Pub.Allow.Add("$JS.API.>")
	case Runtime:
		runtimeRights(&u, n)
	case Responder:
		u.Sub.Allow.Add(n.HeartbeatSubject("*"), n.ImageSubject("*"), n.VaultSubject("*"), n.CommandSubject())
		u.Pub.Allow.Add(n.CommandSubject(), n.ConsoleSubject("*"))
		u.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	case Host:
		hostRights(&u, n)
	}
	return u
}

// runtimeRights: publish to the site's streams, read those that are read, consume
// those that are followed, look at the configuration of all. Not among them:
// STREAM.CREATE, UPDATE, DELETE, PURGE, SNAPSHOT, RESTORE, deleting a message of
// anything but a vault key, and any way to read hosts' reports but the one work queue.
func runtimeRights(u *jwt.UserPermissionLimits, n streams.Names) {
	u.Pub.Allow.Add(n.LogSubject(), n.EventsSubject(), n.PlacementSubject("*"), n.AuditSubject(">"))
	u.Pub.Allow.Add(n.ControlSubjects()...)
	u.Pub.Allow.Add("$JS.API.STREAM.MSG.DELETE." + n.VaultKeys())
	for _, s := range n.Streams() {
		u.Pub.Allow.Add("$JS.API.STREAM.INFO." + s)
	}
	for _, s := range []string{n.Log(), n.Feed(), n.Placements(), n.Vault(), n.VaultKeys(), n.Claim()} {
		u.Pub.Allow.Add("$JS.API.STREAM.MSG.GET." + s)
	}
	for _, s := range []string{n.Log(), n.Feed(), n.Audit()} { // ephemeral ones, without acknowledgements
		u.Pub.Allow.Add("$JS.API.CONSUMER.CREATE."+s+".>", "$JS.API.CONSUMER.MSG.NEXT."+s+".*", "$JS.API.CONSUMER.DELETE."+s+".*")
	}
	reports := n.Reports() + "." + streams.ReportsConsumer
	u.Pub.Allow.Add(
		"$JS.API.CONSUMER.CREATE."+n.Placements()+".*."+n.PlacementSubject("*"), // a host's own
		"$JS.API.CONSUMER.CREATE."+reports, "$JS.API.CONSUMER.INFO."+reports, "$JS.API.CONSUMER.MSG.NEXT."+reports,
		"$JS.ACK."+reports+".>",
		"$JS.ACK.*.*."+reports+".>", // the coming form, with domain and account in front
	)
}

// hostRights: {{name()}} is the user's name, a host id, which only the holder of
// the host role's key can set.
func hostRights(u *jwt.UserPermissionLimits, n streams.Names) {
	const me = "{{name()}}"
	placements := n.Placements()
	u.Sub.Allow = jwt.StringList{streams.HostInbox(me) + ".>", n.ConsoleSubject(me)}
	u.Pub.Allow.Add(
		"$JS.API.CONSUMER.INFO."+placements+"."+me,
		"$JS.API.CONSUMER.MSG.NEXT."+placements+"."+me,
		"$JS.API.DIRECT.GET."+placements+"."+n.PlacementSubject(me), // the current one, at every start
		"$JS.ACK."+placements+"."+me+".>",
		"$JS.ACK.*.*."+placements+"."+me+".>",
		n.ReportSubject(me, "*"),
		n.HeartbeatSubject(me),
		n.ImageSubject(me),
		n.VaultSubject(me),
	)
	// The answers of its consoles, to whoever of the control plane asked.
	u.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	u.Limits.Subs = 64
	u.Limits.Payload = 1 << 20
	u.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard}
}
