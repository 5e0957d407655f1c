# GPUaaS. `make help` lists the targets.
SHELL := /bin/bash
GO    ?= go
BIN   := bin
CACHE := $(or $(GPUAAS_CACHE),$(HOME)/.cache/gpuaas)
DATA  ?= $(HOME)/.local/share/gpuaas-dev
LISTEN ?= 127.0.0.1:8080
HOSTS ?= 2
MACHINE ?= sim
DEVFLAGS ?=
# These packages have no goroutines; all others are tested under the race detector, a new one without being named.
PURE   = $(shell $(GO) list . ./domain/... ./billing/... ./migrations/...)
RACE   = $(filter-out $(PURE),$(shell $(GO) list ./...))
# Of these the race detector sees a part (-short), since they try every step there is; the whole runs without it.
STEPS  = ./hostd/discovery ./hostd/machine/linux ./hostd/wipe

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

.PHONY: setup
setup: ## install what building and testing need (Debian, Ubuntu)
	@scripts/setup.sh build

.PHONY: build
build: setup ## build gpuaas, hostd and gpuctl into bin/
	@mkdir -p $(BIN)
	$(GO) build -trimpath -pgo=deploy/gpuaas.pgo -o $(BIN)/ ./cmd/gpuaas
	$(GO) build -trimpath -o $(BIN)/ ./cmd/hostd ./cmd/gpuctl

.PHONY: dev
dev: build ## run everything on this machine (MACHINE=lab boots real VMs and needs root)
	@if [ "$(MACHINE)" = lab ]; then scripts/setup.sh lab && $(MAKE) --no-print-directory lab-image; fi
	exec $(BIN)/gpuaas dev --data-dir $(DATA) --listen $(LISTEN) --hosts $(HOSTS) --machine $(MACHINE) \
	  $(if $(filter lab,$(MACHINE)),--images $(CACHE)/images --gpus-per-host 2) $(DEVFLAGS)

.PHONY: test
test: setup ## all tests but the slow suites
	$(GO) vet ./...
	$(GO) vet -tags lab ./... # or a change would be found to break them only on a lab
	$(GO) test -timeout 10m $(PURE) $(STEPS)
	$(GO) test -timeout 12m -race -short $(RACE)

.PHONY: test-long
test-long: setup ## campaigns that go on where they ended (FOR=10m each): real processes, every step of the site's own, power cuts, damaged files, the simulation, planted bugs, failovers (ROUNDS=25), hostile requests, a soak (SOAK=1h), fuzzing
	$(GO) test -timeout 24h -v -count=1 ./cmd/gpuaas -run '^TestCampaign$$' -parallel 3 -campaign.long -campaign.for=$(or $(FOR),10m) -campaign.cache=$(CACHE)
	$(GO) test -timeout 24h -v -count=1 ./cmd/gpuaas -run '^TestEveryStep$$' -steps.long -steps.for=$(or $(FOR),10m) -steps.cache=$(CACHE)
	$(GO) test -tags lab -timeout 24h -v -count=1 ./cmd/gpuaas -run '^(TestPowerCuts|TestDamage)$$' -campaign.long -campaign.for=$(or $(FOR),10m) -campaign.cache=$(CACHE)
	$(GO) test -timeout 24h -v -count=1 ./domain/sim -run 'TestCampaign|TestMutants' -sim.long -sim.for=$(or $(FOR),10m) -sim.cache=$(CACHE)
	$(GO) test -timeout 24h -v -count=1 ./api -run '^(TestForeign|TestMalformed)$$' -hostile.long -hostile.for=$(or $(FOR),10m) -hostile.cache=$(CACHE)
	$(GO) test -timeout 24h -v -count=1 ./cmd/gpuaas -run 'TestFailover|TestRollingUpgrade|TestThreeNodeSite|TestFlood' -ha.rounds=$(or $(ROUNDS),25) -ha.upgrade -flood.long
	$(GO) test -timeout 24h -v -count=1 ./cmd/gpuaas -run '^TestSoak$$' -soak.long -soak.for=$(or $(SOAK),1h)
	$(GO) test -tags lab -timeout 30m -v -count=1 -p 1 -run TestLabLong ./hostd/emuhost ./hostd/vm ./hostd/machine/linux
	scripts/fuzz.sh $(or $(FUZZ),1m)

.PHONY: test-lab
test-lab: lab-image emuhost-image ## real VMs, and real devices in an emulated host (root; skipped loudly without)
	scripts/setup.sh lab
	scripts/test-lab.sh

.PHONY: drill
drill: build ## back the running site of DATA up, restore it beside, compare state and read models
	$(BIN)/gpuaas site drill --data-dir $(DATA) $(DRILLFLAGS)

.PHONY: bench
bench: setup ## speed and memory, each beside its limit measured in the same run
	scripts/bench.sh

.PHONY: lint
lint: ## formatting and linters (installs them into .tools)
	scripts/lint.sh

.PHONY: lab-image
lab-image: ## build the lab's guest image into the cache (once)
	scripts/setup.sh lab
	@mkdir -p $(CACHE)/images && img=$$(deploy/lab/mkimage.sh) && ln -sfn "$$img" $(CACHE)/images/tiny.qcow2 && echo "image: $(CACHE)/images/tiny.qcow2"

.PHONY: emuhost-image
emuhost-image: ## build the emulated GPU host into the cache (root; minutes once, then a moment)
	scripts/setup.sh lab
	@deploy/emuhost/mkimage.sh

.PHONY: clean
clean: ## remove what was built; data directories and caches stay
	rm -rf $(BIN) .tools
