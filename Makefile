# SPDX-License-Identifier: Apache-2.0
# Two commands matter: `make demo` (the whole SteerLM path on this machine) and `make test`. Each makes its own
# environment in .venv and works as the first command typed on a machine with Python 3.11.
PYTHON ?= python3.11
VENV   ?= .venv
SEED   ?= 1
VLLM   ?= .venv-vllm
MINIO  ?= .tools/minio
MINIO_VERSION = v0.0.0-20260212201848-7aac2a2c5b7c
HELM   ?= .tools/helm
HELM_DOCS ?= .tools/helm-docs
KUBECONFORM ?= .tools/kubeconform
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Nothing leaves the machine: no telemetry, no model hub.
export MLFLOW_DISABLE_TELEMETRY = true
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1

.PHONY: help demo demo-real test test-long test-s3 test-studio test-vllm cluster cluster-down test-cluster
.PHONY: test-cluster-fast check lint types
.PHONY: imports docs lock compile images manifests goldens clean

help: ## List the targets.
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-17s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY) ## The whole path on a synthetic world: train, annotate, condition, serve, steer, report (SEED=1).
	$(BIN)/python -m demos.synthetic --seed $(SEED) --output runs/demo

demo-real: $(READY) ## The same pipeline on real input: make demo-real DATA=folder
	@test -n "$(DATA)" || { echo "error: say where the data is: make demo-real DATA=folder" >&2; exit 2; }
	$(BIN)/python -m demos.real --data $(DATA) --output runs/demo-real

test: $(READY) ## The test suite, files side by side.
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m "not long"

test-long: $(READY) ## The rest of it: trainings of several processes and whole pipelines.
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m long

test-s3: $(READY) $(MINIO) ## The store against a real MinIO server, which is built with the Go toolchain once.
	STEERLM_MINIO=$(abspath $(MINIO)) $(BIN)/pytest tests/s3

$(MINIO):
	GOBIN=$(abspath $(dir $(MINIO))) CGO_ENABLED=0 go install github.com/minio/minio@$(MINIO_VERSION)

test-studio: $(READY) .tools/studio/.ready ## The studio in a real browser, with axe-core and eslint; writes its pictures for the docs.
	.tools/studio/node_modules/.bin/eslint --config .tools/studio/eslint.config.js steerlm/serving/studio/static
	STEERLM_STUDIO_TOOLS=$(abspath .tools/studio) STEERLM_STUDIO_IMAGES=1 $(BIN)/pytest tests/studio

.tools/studio/.ready: $(addprefix tests/studio/,install.sh package.json package-lock.json eslint.config.js)
	tests/studio/install.sh .tools/studio

test-vllm: $(READY) $(VLLM)/.ready ## Model folders in a real vLLM (its CPU build, in an environment of its own).
	STEERLM_VLLM=$(abspath $(VLLM))/bin $(BIN)/pytest tests/vllm

$(VLLM)/.ready: tests/vllm/install.sh $(READY)
	tests/vllm/install.sh $(BIN)/uv $(VLLM)

.PHONY: test-charts charts
CHART_TOOLS = STEERLM_HELM=$(abspath $(HELM)) STEERLM_HELM_DOCS=$(abspath $(HELM_DOCS)) \
	STEERLM_KUBECONFORM=$(abspath $(KUBECONFORM)) STEERLM_SCHEMAS=$(abspath .tools/schemas)

test-charts: $(READY) $(HELM) $(HELM_DOCS) $(KUBECONFORM) .tools/schemas/.ready ## The Helm chart: lint, renders, schemas.
	$(CHART_TOOLS) $(BIN)/pytest tests/charts

charts: $(READY) $(HELM) $(HELM_DOCS) ## Write the chart's README and the renders that a test compares.
	$(CHART_TOOLS) $(BIN)/python -m tests.charts.render

# Programs of Helm's and Kubernetes' world, and the schemas of Kubernetes and of the CRDs: all from Go modules.
GO_INSTALL = GOBIN=$(abspath $(@D)) CGO_ENABLED=0 go install
$(HELM):
	$(GO_INSTALL) helm.sh/helm/v4/cmd/helm@v4.3.1

$(HELM_DOCS):
	$(GO_INSTALL) github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2

$(KUBECONFORM):
	$(GO_INSTALL) github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0

.tools/schemas/.ready: $(READY) tests/charts/modules.txt tests/charts/schemas.py
	$(BIN)/python -m tests.charts.schemas $(@D)
	touch $@

cluster: $(READY) ## Start a Kubernetes with the Kubeflow operators on this machine, as root (tests/cluster/lab/README.md).
	LAB_PYTHON=$(abspath $(BIN))/python tests/cluster/lab/up.sh

cluster-down: ## Remove that cluster; what was built for it stays in ~/.cache/steerlm-lab.
	tests/cluster/lab/down.sh

# STEERLM_KUBECONFIG names another cluster to test on.
test-cluster: $(if $(STEERLM_KUBECONFIG),$(READY),cluster) ## The tests that need a cluster, on that cluster.
	STEERLM_CLUSTER_REQUIRED=1 $(BIN)/pytest tests/cluster

test-cluster-fast: $(if $(STEERLM_KUBECONFIG),$(READY),cluster) ## The part of them that every change runs.
	STEERLM_CLUSTER_REQUIRED=1 $(BIN)/pytest tests/cluster -m fast

check: lint types imports ## Lint, types and import rules.

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

docs: $(READY) ## The documentation site, in build/site; a link that leads nowhere fails.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

compile: $(READY) ## Compile the pipelines to pipelines/compiled (a test compares them).
	$(BIN)/python -m pipelines.compile

# NAME=value after `make images`: see images/README.md.
images: $(READY) ## The container images: IMAGES="launcher train-reward", DEVICE=cpu, BUILDER=docker; REGISTRY=… pushes.
	$(BIN)/python -m images.build $(if $(BUILDER),--builder=$(BUILDER)) $(if $(DEVICE),--device=$(DEVICE)) \
		$(if $(REGISTRY),--registry='$(REGISTRY)') $(if $(TAG),--tag='$(TAG)') \
		$(if $(BASE_IMAGE),--base-image='$(BASE_IMAGE)') \
		$(if $(filter-out undefined,$(origin TORCH_BACKEND)),--torch-backend='$(TORCH_BACKEND)') \
		--build-flags='$(BUILD_FLAGS)' --push-flags='$(PUSH_FLAGS)' $(IMAGES)

manifests: $(READY) ## Write the recipes' 32-node jobs to manifests/jobs (a test compares them).
	$(BIN)/python -m manifests.render

goldens: $(READY) ## Freeze the code of every stage anew (a test compares it), if results stay equal.
	$(BIN)/python -m tests.stages.goldens

lock: $(READY) ## Bring constraints.txt and the images' packages up to pyproject.toml; versions named there stay.
	cp constraints.txt constraints.new
	$(BIN)/uv pip compile --quiet --all-extras --no-annotate --no-header --no-emit-package steerlm --no-emit-index-url \
		--python-version 3.11 pyproject.toml -o constraints.new
	{ echo "# Exact versions of every package the project was tested with (Python 3.11). Made by: make lock"; \
	  { cat constraints.new; $(BIN)/uv --version | awk '{print "uv==" $$2}'; } | sort; } > constraints.txt
	rm constraints.new
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m images.lock

clean: ## Remove what the demo made (not the environment).
	rm -rf runs
