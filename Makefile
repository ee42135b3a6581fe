# Every command of the README. `make` alone lists them.
# Settings are variables: `make report EPOCHS=3 CIFAR10_DIR=data`. Make passes them on as environment
# variables.
.DEFAULT_GOAL := help
.PHONY: help report submission paper study zip colab verify assignment grade test test-fast bench clean

# setup.sh installs what is missing, then runs the command after it in the project's environment.
# `python -m nbconvert` is `jupyter nbconvert`, but also works in a .venv whose folder was moved.
ENV     := sh tools/setup.sh
RUN     := python -m tools.run_notebook
CONVERT := python -m nbconvert --config report/config.py
# `make paper`, `make submission` and `make study` refuse a notebook of which something would be left
# out, cut or scaled. STRICT=0: they name it and build the paper.
STRICT  ?= 1

ASSIGNMENT := notebooks/assignment2.ipynb
STUDY      := notebooks/study.ipynb

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\): *## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

report:  ## run the notebook and build its paper; both go to build/, nothing else changes
	@OUTPUT=build $(ENV) $(RUN) $(ASSIGNMENT) build/assignment2.ipynb
	@$(ENV) $(CONVERT) --output-dir build build/assignment2.ipynb

submission:  ## run the notebook in place on CIFAR-10, store its runs, build report/report.pdf
	@OUTPUT=submission DATASET=cifar10 FRESH=0 $(ENV) $(RUN) $(ASSIGNMENT) $(ASSIGNMENT)
	@$(ENV) --no-tex python -m tools.packing collect
	@$(MAKE) --no-print-directory paper

paper:  ## build report/report.pdf without running the notebook (DRAFT=1: a draft, from stale outputs)
	@STRICT=$(STRICT) $(ENV) $(CONVERT) $(ASSIGNMENT)
	@$(ENV) pdftoppm -png -singlefile -r 80 report/report.pdf figures/first-page

study:  ## run the study in place, build report/study.pdf (FRESH=1: train the runs it lacks)
	@OUTPUT=submission DATASET=cifar10 $(ENV) $(RUN) $(STUDY) $(STUDY)
	@STRICT=$(STRICT) $(ENV) $(CONVERT) --output study $(STUDY)

zip:  ## check the submission, then pack it: build/submission.zip, receipt.html (WEIGHTS=0: without weights)
	@$(ENV) --no-tex python -m tools.packing zip

colab:  ## write build/assignment2_colab.ipynb: the notebook and its project in one file
	@$(ENV) --no-tex python -m tools.packing colab

verify:  ## check the numbers of this folder (SUBMISSION=archive.zip: of an archive; RERUN=1: rerun it)
	@$(ENV) --sandbox python -m grading.verify

assignment:  ## write what students get, without solutions and results: build/assignment.zip
	@$(ENV) --no-tex python -m tools.assignment

grade:  ## grade all archives in SUBMISSIONS=folder/ for ROSTER=roster.csv (JOBS=2: two at a time): build/grades.html
	@$(ENV) --sandbox python -m grading.grade

# two test files at a time, with one thread each; a file's tests stay in one process
test:  ## run all tests, as CI does
	@OMP_NUM_THREADS=1 $(ENV) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast:  ## run the tests that need no TeX, sandbox, browser or long training (a minute)
	@$(ENV) --no-tex python -m pytest -m "not (tex or sandbox or browser or slow)"

bench:  ## measure the training speed of this machine
	@$(ENV) --no-tex python -m tests.bench

clean:  ## remove build/ (with unfinished training runs) and all caches
	@rm -rf build
	@find . \( -path ./.git -o -path ./.venv -o -path ./data \) -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache \
		-o -name .ruff_cache -o -name .hypothesis \) -prune -exec rm -rf {} +
