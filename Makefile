# Raw JPEG in, labels out, on NVIDIA Triton. `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
TENSORFLOW_VENV ?= .venv-tensorflow
BATCH_VENV ?= .venv-batch
RECIPE ?= mobilenet_v2
# Tests that run two at once: they measure no time, apply no load, and need neither a server nor a build of the session.
BESIDE := tests/wheel tests/coverage_fuzz $(patsubst %,tests/server/test_%.py,check_agrees own_network int8_in_batches \
  error_texts pytorch_backend sixth_form private_files) $(filter-out %/test_committed.py %/test_precision.py,$(wildcard \
  tests/repository/test_*.py tests/unit/test_*.py))
BIN := $(VENV)/bin
export VENV
# Builds a classifier, if there is none yet.
BUILT = ls model_repository/classifier_*/*/*.json > /dev/null 2>&1 || $(BIN)/jpeg-build $(RECIPE) > /dev/null

.DEFAULT_GOAL := help
.PHONY: help demo serve web build check test test-faults fuzz fuzz-parsers lint configs format lock clean setup setup-dev \
  build-tensorflow test-tensorflow build-batch test-batch image test-image bench accuracy up down audit site \
  site-serve reference

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## build the demo classifier, serve it, classify photos, print their labels
	@$(BIN)/python scripts/demo.py $(if $(filter file,$(origin RECIPE)),,$(RECIPE))

serve: setup ## serve in the foreground until Ctrl-C, with the page; SERVE="--http-port 9000" passes options
	@$(BUILT)
	@exec $(BIN)/jpeg-serve --web $(SERVE)

web: setup ## the page and its JSON API alone, in front of a running server; WEB="--url grpc://HOST:8001"
	@exec $(BIN)/jpeg-web $(WEB)

build: setup ## build the classifier of RECIPE (default mobilenet_v2) and check it against the network
	@$(BIN)/jpeg-build $(RECIPE)

check: setup ## check the model repository, and load it once
	@$(BIN)/jpeg-serve check

test: setup-dev ## all tests, with a real tritonserver; TEST="tests/unit -k topk" chooses
ifdef TEST
	@$(BIN)/pytest $(TEST)
else
	@status=0; \
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(BESIDE) || status=$$?; \
	$(BIN)/pytest $(addprefix --ignore=,$(BESIDE)) || status=$$?; \
	exit $$status
endif

test-faults: setup-dev ## inject faults into a server under load, every answer checked; some ten minutes
	@$(BIN)/pytest tests/faults $(TEST)

fuzz: setup-dev ## send requests that no client should to a real server. FUZZ="--minutes 60 --seed 1"
	@PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

fuzz-parsers: setup-dev ## fuzz what reads images, recipes, configs, reports. FUZZ="--target decode --minutes 60"
	@PYTHONPATH=tests $(BIN)/python -m coverage_fuzz $(FUZZ)

build-tensorflow: ## an environment of its own for --backend tf_trt: .venv-tensorflow/bin/jpeg-build and jpeg-serve
	@VENV=$(TENSORFLOW_VENV) $(PYTHON) scripts/bootstrap.py tensorflow

test-tensorflow: build-tensorflow ## the tests of --backend tf_trt, in that environment
	@$(TENSORFLOW_VENV)/bin/pytest tests/tf_trt $(TEST)

build-batch: ## an environment of its own for the examples with Ray Data and Spark (needs Java 17): .venv-batch
	@VENV=$(BATCH_VENV) $(PYTHON) scripts/bootstrap.py batch

test-batch: setup-dev build-batch ## run these examples against a real server
	@$(BIN)/pytest tests/batch $(TEST)

image: ## the server image, with Docker; TARGET=gpu for NVIDIA's Triton
	docker build --tag triton-jpeg-classifier:$(or $(TARGET),cpu) --target $(or $(TARGET),cpu) \
	  --build-arg REVISION=$$(git rev-parse HEAD) .

test-image: setup-dev ## build the server image without Docker and test it (as root; buildah, debootstrap, runc)
	@scripts/test_image.sh $(TEST)

bench: setup-dev ## measure this machine, this server, other servers; some 20 minutes. BENCH="--quick --without-peers"
	@$(BUILT)
	@ls .bench/own-choice/classifier_*/*/*.json > /dev/null 2>&1 || \
	  $(BIN)/jpeg-build $(RECIPE) --backend openvino --precision auto --model-repository .bench/own-choice > /dev/null
	@$(BIN)/python -m comparison run --own-choice .bench/own-choice $(BENCH) > /dev/null

accuracy: setup-dev ## accuracy of six real networks in every form and precision. ACCURACY="--network digits --backend onnx"
	@$(BIN)/python scripts/accuracy.py all $(ACCURACY)

up: ## start server, gateway, Prometheus and Grafana with Docker Compose; UP_OPTIONS=--build builds the image
	@deploy/up.sh

down: ## stop them; DOWN_OPTIONS=--volumes deletes models and metrics, too
	@docker compose -f deploy/compose.yaml --profile '*' down $(DOWN_OPTIONS)

audit: setup-dev ## look for known vulnerabilities in the locked packages, if the package index has such data
	@PATH="$(abspath $(BIN)):$$PATH" scripts/audit.sh

lint: setup-dev ## ruff, mypy --strict, and the imports between the packages
	@PATH="$(abspath $(BIN)):$$PATH" scripts/lint.sh

configs: setup ## write model_repository/ again, as jpeg-build makes it for every backend
	@$(BIN)/python scripts/renew_configs.py

site: setup-dev ## the documentation as a site, in .site/; a broken link is an error
	@$(BIN)/mkdocs build --strict

site-serve: setup-dev ## show the documentation while you write it, on http://127.0.0.1:8090
	@$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8090

reference: setup-dev ## write docs/reference/ again, from the code
	@PYTHONPATH=scripts $(BIN)/python -m reference

format: setup-dev ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: ## renew requirements/*.txt from pyproject.toml (needs uv)
	@scripts/lock.sh

clean: ## remove built files and caches; the virtual environment stays
	@rm -rf model_repository/classifier_*/[0-9]* model_repository/.staging-* model_repository/.jpeg-build.lock \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .site
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

setup:
	@$(PYTHON) scripts/bootstrap.py demo

setup-dev:
	@$(PYTHON) scripts/bootstrap.py dev
