package metadata

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers of the instance metadata service, version 2
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
const (
	headerTTL   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	headerToken = "X-Aws-Ec2-Metadata-Token"
)

// proxied are headers of requests that came by somebody else.
var proxied = []string{"X-Forwarded-For", "Forwarded", "Via"}

// serve answers one request that came in by a bridge.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, bridge string) {
	g, ok := s.o.Guest(r.Context(), bridge, addressOf(r.RemoteAddr))
	if !ok {
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusForbidden, "no VM has this port and address")
		return
	}
	if !s.allow(g.VM) {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "too many requests")
		return
	}
	for _, h := range proxied {
		if r.Header.Get(h) != "" {
			refuse(w, http.StatusForbidden, "a request with "+h+" came by somebody else")
			return
		}
	}
	if r.Host != address && r.Host != address+":80" {
		refuse(w, http.StatusForbidden, "this is "+address)
		return
	}
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusRequestEntityTooLarge, "a request has no body here")
		return
	}
	if r.URL.Path == "/latest/api/token" {
		s.token(w, r, &g)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "only GET and HEAD")
		return
	}
	if !s.tokens.valid(r.Header.Get(headerToken), g.VM, s.o.now()) {
		refuse(w, http.StatusUnauthorized, "a token is needed: PUT /latest/api/token with "+headerTTL)
		return
	}
	body, ok := g.find(r.URL.Path)
	if !ok {
		refuse(w, http.StatusNotFound, "there is no such path")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if strings.HasSuffix(r.URL.Path, "/user-data") {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a guest that went away is no error
}

// token answers PUT /latest/api/token.
func (s *Server) token(w http.ResponseWriter, r *http.Request, g *Guest) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", "PUT")
		refuse(w, http.StatusMethodNotAllowed, "only PUT")
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(headerTTL))
	if err != nil || ttl < 1 || ttl > maxTTL {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("%s: want 1 to %d seconds", headerTTL, maxTTL))
		return
	}
	s.o.Alive(g.VM)
	w.Header().Set(headerTTL, strconv.Itoa(ttl))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(s.tokens.issue(g.VM, s.o.now().Add(time.Duration(ttl)*time.Second))))
}

func refuse(w http.ResponseWriter, status int, why string) { http.Error(w, why, status) }

// versions are the first parts of paths; cloud-init asks by date.
var versions = []string{"latest", "2009-04-04"}

// find is the content of a path.
func (g *Guest) find(path string) ([]byte, bool) {
	if path == "/" {
		return []byte(strings.Join(versions, "\n")), true
	}
	for _, v := range versions {
		rest, ok := strings.CutPrefix(path, "/"+v+"/")
		switch {
		case !ok:
			continue
		case rest == "":
			return []byte("meta-data/\nuser-data"), true
		case rest == "user-data":
			return g.UserData, len(g.UserData) > 0
		case rest == "meta-data":
			rest += "/"
		}
		if rest, ok = strings.CutPrefix(rest, "meta-data/"); ok {
			text, ok := g.tree()[rest]
			return []byte(text), ok
		}
	}
	return nil, false
}

// tree is everything below meta-data/. A folder's content is the list of its
// entries.
func (g *Guest) tree() map[string]string {
	nic := "network/interfaces/macs/" + g.MAC + "/"
	t := map[string]string{
		"":                             "hostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\npublic-keys/",
		"instance-id":                  g.VM,
		"hostname":                     g.Hostname,
		"local-hostname":               g.Hostname,
		"local-ipv4":                   g.Address.String(),
		"mac":                          g.MAC,
		"network/":                     "interfaces/",
		"network/interfaces/":          "macs/",
		"network/interfaces/macs/":     g.MAC + "/",
		nic:                            "device-number\nlocal-hostname\nlocal-ipv4s\nmac\nsubnet-ipv4-cidr-block",
		nic + "device-number":          "0",
		nic + "local-hostname":         g.Hostname,
		nic + "local-ipv4s":            g.Address.String(),
		nic + "mac":                    g.MAC,
		nic + "subnet-ipv4-cidr-block": g.Subnet.String(),
	}
	var names []string
	for i, key := range g.SSHKeys {
		n := strconv.Itoa(i)
		names = append(names, n+"=key-"+n)
		t["public-keys/"+n+"/"] = "openssh-key"
		t["public-keys/"+n] = "openssh-key"
		t["public-keys/"+n+"/openssh-key"] = key
	}
	t["public-keys/"] = strings.Join(names, "\n")
	return t
}
