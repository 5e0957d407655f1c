package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gpuaas/gpuaas/client"
)

// Launch a VM, wait until it runs, and decide by a refusal's code.
func Example() {
	site := httptest.NewServer(exampleSite())
	defer site.Close()
	ctx := context.Background()
	c, err := client.New(site.URL, "gpk_...")
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := c.CreateAllocation(ctx, "prj_06g3n4k8w2v5r9t1y7m0q4x8zc", client.NewAllocation{Name: "train-7", SKU: "gpu-1x"})
	var p *client.Problem
	if errors.As(err, &p) && p.Code == "capacity.exhausted" {
		fmt.Println("later")
		return
	}
	if a, err = c.WaitAllocation(ctx, a.ID, client.Running); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(a.Name, "runs at", a.VMs[0].Address)
	for t, err := range c.Tenants(ctx) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(t.Name, t.CreditLineMicros)
	}
	// Output:
	// train-7 runs at 10.64.0.7
	// acme 1000000
}

func exampleSite() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/projects/{p}/allocations", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Log-Sequence", "7")
		fmt.Fprint(w, `{"id":"alloc_06g3n4k8w2v5r9t1y7m0q4x8zc","state":"provisioning"}`)
	})
	m.HandleFunc("GET /v1/allocations/{a}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"id":"alloc_06g3n4k8w2v5r9t1y7m0q4x8zc","name":"train-7","state":"running","vms":[{"address":"10.64.0.7"}]}`)
	})
	m.HandleFunc("GET /v1/tenants", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[{"id":"ten_1","name":"acme","credit_line_micros":1000000}]}`)
	})
	return m
}
