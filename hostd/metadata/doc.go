// Package metadata is the link-local service at 169.254.169.254 that tells a guest
// who it is: the part of Amazon's instance metadata, version 2, that cloud-init and
// common agents read. It knows of a guest only what [Options.Guest] says, and that
// is what the guest's tenant gave it: no credential of the fleet is ever here.
//
// Who asks is never taken from the request. One socket listens on each tenant's
// bridge and hears nothing from elsewhere (SO_BINDTODEVICE), and on a bridge the
// source address is the port's, because a port can send with no other (package
// network). So bridge and source address together are the port.
//
// A program in the guest that can be talked into fetching an address for somebody
// else must not be enough to read the metadata: every read needs a token, a token
// needs a PUT with a header, requests that passed a proxy or name another host are
// refused, and replies have a hop limit of 1, so they reach nobody behind the guest.
//
// Sizes, times, connections and rates are bounded for each guest alone.
//
// Start reading at [Server.Apply], then Server.ServeHTTP.
package metadata
