LINT = go tool -modfile=tools/go.mod golangci-lint

.PHONY: build
build: ## bin/worker, bin/replayer, bin/fetch, bin/gateway
	go build -trimpath -o bin/ ./cmd/...

.PHONY: check
check: ## lint, format included, and vet
	$(LINT) run
	go vet ./...

.PHONY: fmt
fmt: ## format everything
	$(LINT) fmt

.PHONY: test
test: ## every test
	go test ./...

.PHONY: race
race: ## every test but e2e under the race detector, half an hour (needs a C compiler); one processor each, see .ci/run
	go test -race -cpu 1 -timeout 60m $$(go list ./... | grep -v /e2e)

.PHONY: mutants
mutants: ## faults put in one at a time, and whether the tests notice; CHANGED=main: of files that differ; ONLY=R7,fetch: of a name, or of files
	go run ./mutants -dir '$(or $(DIR),mutants)' -only '$(ONLY)' -changed '$(CHANGED)' -within '$(or $(WITHIN),0s)'

FUZZTIME = 10s
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (10s); what it finds it writes into testdata/fuzz, to be mended and committed
	@grep -rnoE --include=*_test.go 'func Fuzz[A-Za-z]+' . | sed -E 's#^(\./.*)/[^/]*\.go:[0-9]+:func (.*)#\1 \2#; s#^\./[^/ ]*\.go:[0-9]+:func (.*)#. \1#' | \
	while read -r dir target; do echo "== $$dir $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" || exit 1; done

# The full forms of e2e: real processes, killed and frozen on the wall clock.
CHAOS = FETCH_CHAOS=full go test -count=1 -v -timeout=60m ./e2e

.PHONY: chaos
chaos: ## every end-to-end test in its full form, a quarter of an hour
	$(CHAOS)

.PHONY: soak
soak: ## ten minutes (FETCH_SOAK=1m: so long) of 300 requests a second with 5 % faults, then kills and the server's outages ten times over with the race detector
	$(CHAOS) -run Soaks
	for n in 1 2 3 4 5 6 7 8 9 10; do GOFLAGS=-race $(CHAOS) -run 'Nothing|Server' || exit 1; done

.PHONY: front-door
front-door: ## 2,000 streams of answers and 500 slow clients at one HTTP door: what others' requests and the memory are beside them
	$(CHAOS) -run FrontDoorUnderLoad

.PHONY: large
large: ## 200 bodies of 60 MiB through a worker, an agent's program and a gateway, each with 400 MiB (FETCH_LARGE=60: so many; FETCH_CGROUP=a folder of a cgroup: its limit instead)
	$(CHAOS) -run 'LargeAnswers.*BesideSmallOnes'

.PHONY: outage
outage: ## an outage of 10,000 and 100,000 requests (FETCH_OUTAGE=10000: of so many): a table of what parking and draining take beside fresh ones
	$(CHAOS) -run AtScale

.PHONY: status
status: ## how long replayer status takes among 1,000,000 letters (FETCH_LETTERS=100000: so many), without and beside a replayer
	$(CHAOS) -run StatusAmong

.PHONY: flood
flood: ## one agent sends 200,000 requests as fast as it can: how long another's take before and meanwhile (FLOOD=20000: fewer)
	FETCH_FLOOD=$(or $(FLOOD),200000) $(CHAOS) -run OneAgentsFlood

.PHONY: cluster
cluster: ## a cluster of three NATS servers that loses its leaders
	$(CHAOS) -run Cluster

.PHONY: operator-hour
operator-hour: ## an hour of what operators and machines do to a running fleet; FETCH_HOUR=20m: so long; short: each once, a minute and a half
	FETCH_HOUR=$${FETCH_HOUR:-full} go test -count=1 -v -timeout=90m ./e2e -run AnOperatorsHour

.PHONY: versions
versions: ## the first version's worker beside this one's on one server, built from its commit (needs git's history)
	FETCH_VERSIONS=beside go test -count=1 -v -timeout=20m ./e2e -run FirstVersionWorks

.PHONY: bench
bench: ## benchmarks into bench.txt; compared with BASE=old.txt if that is given
	go test -run='^$$' -bench=. -benchmem -count=6 ./... > bench.txt || { cat bench.txt; exit 1; }
	go tool -modfile=tools/go.mod benchstat $(BASE) bench.txt

.PHONY: bench-peers
bench-peers: ## ours beside the bare loop and its peers, quotas, outages and growth, into docs/performance/ (half an hour; BENCH=-short: three minutes; redis-server and PostgreSQL where they are installed)
	mkdir -p docs/performance
	cd bench && go run . peers -out ../docs/performance $(BENCH)

.PHONY: bench-providers
bench-providers: ## what providers cost that nobody asks, on one server and on three
	cd bench && go run . providers

.PHONY: observe
observe: ## what is deployed: compose, images, dashboards and alerts against a worker that runs (a module of its own)
	cd deploy/test && go vet ./... && go test ./...

.PHONY: interop
interop: ## the clients of other languages in examples/ against the conformance list (needs node and npm; python3 with nats-py if there)
	cd examples/node && npm ci --no-audit --no-fund
	FETCH_INTEROP=1 go test -count=1 -v -run 'TestTheExamplesConform|TestNodeAsAlice' . ./nats

.PHONY: generated-clients
generated-clients: ## clients of Go and TypeScript that are generated from openapi.json compile and ask (needs the module proxy, and npm for the second)
	FETCH_GENERATE=1 go test -count=1 -v -timeout=15m -run GeneratedClient ./e2e

.PHONY: browser
browser: ## the operators' page in a real browser, its pictures in browser/shots (needs Debian's chromium; a module of its own)
	cd browser && go vet ./... && go test -count=1 ./...

# Only paths of packages are the module's: the service is called fetchworker
# whatever a fork's path is. What is checked then a test shortens.
THEN = go build ./... && go vet ./...

.PHONY: rename
rename: ## gives a fork its own module path: make rename MODULE=example.com/you/fetchworker
	test -n "$(MODULE)"
	old=$$(go list -m) && \
	git ls-files -z '*go.mod' | xargs -0 sed -i -E "s#(^|[ \t])$$old([/ ]|\$$)#\1$(MODULE)\2#" && \
	git ls-files -z '*.go' | xargs -0 sed -i -E "s#\"$$old/#\"$(MODULE)/#g; s#^(import |[ \t]*)([a-z]+ )?\"$$old\"\$$#\1\2\"$(MODULE)\"#" && \
	sed -i "s#\<$$old\>#$(MODULE)#g" .golangci.yml
	$(THEN)

.PHONY: ci
ci: ## what CI runs
	.ci/run

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\): ## /\1\t/p' Makefile
