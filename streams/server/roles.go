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

// runtimeRights: publish to the site's streams, read and consume them, look at
// their configuration. Not among them: STREAM.CREATE, UPDATE, DELETE, PURGE,
// SNAPSHOT, RESTORE, and deleting a message of anything but a vault key.
func runtimeRights(u *jwt.UserPermissionLimits, n streams.Names) {
	u.Pub.Allow.Add(n.LogSubject(), n.EventsSubject(), n.PlacementSubject("*"), n.AuditSubject(">"))
	u.Pub.Allow.Add(n.ControlSubjects()...)
	u.Pub.Allow.Add("$JS.API.STREAM.MSG.DELETE." + n.VaultKeys())
	for _, s := range n.Streams() {
		u.Pub.Allow.Add(
			"$JS.API.STREAM.INFO."+s,
			"$JS.API.STREAM.MSG.GET."+s,
			"$JS.API.CONSUMER.CREATE."+s+".>",
			"$JS.API.CONSUMER.INFO."+s+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+s+".*",
			"$JS.API.CONSUMER.DELETE."+s+".*",
			"$JS.ACK."+s+".>",
			"$JS.ACK.*.*."+s+".>", // the coming form, with domain and account in front
		)
	}
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
