package server

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// TestConfigFile: nats-server, given the file, is configured as the embedded server.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	trust, err := OpenTrust(filepath.Join(dir, "trust"), "auh1")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Dir: filepath.Join(dir, "n1"), Site: "auh1", Name: "n1", Host: "127.0.0.1", Port: 4222, Advertise: "nats1.example.org:4222", Trust: trust,
		Cluster: &Cluster{Name: "auh1", Host: "127.0.0.1", Port: 6222, Routes: []string{"127.0.0.1:6222", "127.0.0.1:6223"}},
	}
	text, err := o.ConfigFile("", "", "")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "n1.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	have, err := natsserver.ProcessConfigFile(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	want, err := o.options()
	if err != nil {
		t.Fatal(err)
	}
	defer want.AccountResolver.Close()
	for _, field := range []string{
		"ServerName", "Host", "Port", "ClientAdvertise", "MaxPayload", "MaxControlLine", "JetStream", "StoreDir", "JetStreamDomain", "SyncAlways", "SystemAccount",
	} {
		h, w := reflect.ValueOf(have).Elem().FieldByName(field).Interface(), reflect.ValueOf(want).Elem().FieldByName(field).Interface()
		if !reflect.DeepEqual(h, w) {
			t.Errorf("%s is %v in the file, %v in the embedded server", field, h, w)
		}
	}
	if len(have.TrustedOperators) != 1 || have.TrustedOperators[0].Subject != want.TrustedOperators[0].Subject {
		t.Errorf("the file trusts %v", have.TrustedOperators)
	}
	if have.Cluster.Name != "auh1" || have.Cluster.Port != 6222 || len(have.Routes) != 2 || have.Routes[1].Host != "127.0.0.1:6223" {
		t.Errorf("cluster %+v, routes %v", have.Cluster, have.Routes)
	}
	server, err := natsserver.NewServer(have) // it accepts the accounts
	if err != nil {
		t.Fatal(err)
	}
	server.Shutdown()
}
