# Every command of README.md and docs/. `make` alone lists them.
# Settings are variables: `make report EPOCHS=3 CIFAR10_DIR=data`. Make passes them on as environment
# variables.
.DEFAULT_GOAL := help
.PHONY: help report submission paper study zip colab verify assignment grade test test-fast bench clean

# setup.sh installs what is missing, then runs the command after it in the project's environment. The
# commands themselves are in tools/__main__.py, for systems without make.
ENV   := sh tools/setup.sh
TOOLS := python -m tools
# tests fail where our code leaves a file's encoding to the system
CHECKED := env PYTHONWARNDEFAULTENCODING=1

help:  ## list these commands
	@awk -F ':  ## ' '/^[a-z-]+:  ## / { printf "%-18s%s\n", "make " $$1, $$2 }' Makefile

report:  ## run the notebook, build its paper as report.pdf and web page report.html; all goes to build/
	@$(ENV) $(TOOLS) $@

submission:  ## run the notebook in place on CIFAR-10, store its runs, build report/report.pdf
	@$(ENV) $(TOOLS) $@

paper:  ## build report/report.pdf without running the notebook (DRAFT=1: a draft, from stale outputs)
	@$(ENV) $(TOOLS) $@

study:  ## run the study in place, build report/study.pdf (FRESH=1: train the runs it lacks)
	@$(ENV) $(TOOLS) $@

zip:  ## check the submission, then pack it: build/submission.zip, receipt.html (WEIGHTS=0: without weights)
	@$(ENV) --no-tex $(TOOLS) $@

colab:  ## write build/assignment2_colab.ipynb: the notebook and its project in one file
	@$(ENV) --no-tex $(TOOLS) $@

verify:  ## check the numbers of this folder (SUBMISSION=archive.zip: of an archive; RERUN=1: rerun it)
	@$(ENV) --sandbox $(TOOLS) $@

assignment:  ## write what students get, without solutions and results: build/assignment.zip
	@$(ENV) --no-tex $(TOOLS) $@

grade:  ## grade all archives in SUBMISSIONS=folder/ for ROSTER=roster.csv (JOBS=2: two at a time): build/grades.html
	@$(ENV) --sandbox $(TOOLS) $@

test:  ## run all tests, as CI does
	@$(ENV) $(CHECKED) $(TOOLS) $@

test-fast:  ## run the tests that need no TeX, sandbox, browser or long training (a minute)
	@$(ENV) --no-tex $(CHECKED) $(TOOLS) $@

bench:  ## measure the speed of training and of grading on this machine
	@$(ENV) --no-tex $(TOOLS) $@

clean:  ## remove build/ (with unfinished training runs) and all caches
	@rm -rf build
	@find . \( -path ./.git -o -path "./.venv*" -o -path ./data \) -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache \
		-o -name .ruff_cache -o -name .hypothesis \) -prune -exec rm -rf {} +
