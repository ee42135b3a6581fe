# Every command of the README; `make` alone lists them.
# Parameters are variables: `make report EPOCHS=3 CIFAR10_DIR=data`. Make hands them on as environment variables.
.DEFAULT_GOAL := help
.PHONY: help report test paper submission study verify grade zip colab bench clean

# setup.sh installs what is missing, then runs the command that follows in the project's environment.
# `python -m nbconvert` is `jupyter nbconvert`; it also works after the folder, .venv in it, has been moved.
ENV     := sh tools/setup.sh
CONVERT := python -m nbconvert --config report/config.py

help:  ## list these commands
	@sed -n 's/^\([a-z]*\): *## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

report:  ## run the notebook and build the paper from it, in build/
	@OUTPUT=build $(ENV) python -m tools.run_notebook notebooks/assignment2.ipynb build/assignment2.ipynb
	@$(ENV) $(CONVERT) --output-dir build build/assignment2.ipynb

test:  ## run the tests
	@$(ENV) python -m pytest

paper:  ## build report/report.pdf from the submitted notebook as it stands, without running it (DRAFT=1: in any case)
	@$(ENV) $(CONVERT) notebooks/assignment2.ipynb
	@$(ENV) pdftoppm -png -singlefile -r 80 report/report.pdf figures/first-page

submission:  ## run the notebook in place on CIFAR-10 (no fallback data), then build report/report.pdf
	@OUTPUT=submission DATASET=cifar10 FRESH=0 $(ENV) python -m tools.run_notebook notebooks/assignment2.ipynb notebooks/assignment2.ipynb
	@$(ENV) --no-tex python -m tools.handin collect
	@$(MAKE) --no-print-directory paper

study:  ## run the study in place on its stored runs and CIFAR-10, then build report/study.pdf (FRESH=1: train missing runs)
	@OUTPUT=submission DATASET=cifar10 $(ENV) python -m tools.run_notebook notebooks/study.ipynb notebooks/study.ipynb
	@$(ENV) $(CONVERT) --output study notebooks/study.ipynb

verify:  ## say which of the numbers hold: this folder's, or SUBMISSION=archive.zip's (RERUN=1: run its notebook, too)
	@$(ENV) --sandbox python -m grading.verify

grade:  ## judge all archives in SUBMISSIONS=folder/, JOBS at a time: build/grades.csv and build/grades.html
	@$(ENV) --sandbox python -m grading.grade

zip:  ## pack the submission into build/submission.zip (WEIGHTS=0: without weights, under 5 MB)
	@$(ENV) --no-tex python -m tools.handin zip

colab:  ## write build/assignment2_colab.ipynb, which carries everything it needs
	@$(ENV) --no-tex python -m tools.handin colab

bench:  ## measure the training speed
	@$(ENV) --no-tex python -m tests.bench

clean:  ## remove build/ (unfinished runs with it) and caches
	@rm -rf build
	@find . \( -path ./.git -o -path ./.venv -o -path ./data \) -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache -o -name .ruff_cache -o -name .hypothesis \) \
		-prune -exec rm -rf {} +
