#!/bin/sh
# sh tools/setup.sh [--no-tex | --no-pip | --sandbox] COMMAND...
# Runs COMMAND, from the repository's root, in the project's environment. What is missing is installed first;
# where that is not allowed, the line to run is printed. With everything there this is silent and instant.
# --sandbox is for judging submissions: TeX and bubblewrap where they can be had, else the command says what is left.
set -eu

stop() { printf '%s\n' "$@" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

tex=yes pip=yes sandbox=no
case $1 in
--no-tex) tex=no; shift ;;
--no-pip) pip=no; shift ;;
--sandbox) sandbox=yes; shift ;;
esac

# An active environment is used as it is, and so is Colab's Python; otherwise .venv.
own=no
if [ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]; then
    environment=${VIRTUAL_ENV:-$CONDA_PREFIX}
    python=$environment/bin/python
    have "$python" || stop "The active environment $environment has no Python: deactivate it, then try again."
else
    python=python3
    have python3 || stop "Python 3.11 or later is needed, and there is no python3."
    if [ -n "${COLAB_RELEASE_TAG:-}" ]; then
        environment=$(python3 -c 'import sys; print(sys.prefix)')
    else
        own=yes
        environment=$PWD/.venv
    fi
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "Python 3.11 or later is needed; $python is $("$python" -V 2>&1)."

# The copy of requirements.txt in the environment says what was installed there.
installed=$environment/requirements-installed.txt
ready=no
if [ $pip = no ] || { cmp -s requirements.txt "$installed" && { [ $own = no ] || have .venv/bin/python; }; }; then
    ready=yes
fi

# What comes from the system's package manager
packages=
if [ $own$ready = yesno ] && ! python3 -c 'import ensurepip' 2>/dev/null; then
    packages=" python3-venv"  # Debian's python3 has no venv without it
fi
if [ $tex = yes ]; then
    # one file of each TeX package; cleveref stands for texlive-latex-extra, which comes with texlive-xetex
    if ! { have xelatex && have latexmk &&
        kpsewhich fontspec.sty cleveref.sty ulem.sty rsfs10.tfm lmroman10-regular.otf >/dev/null; }; then
        packages="$packages texlive-xetex texlive-latex-recommended texlive-fonts-recommended texlive-plain-generic"
        packages="$packages lmodern latexmk"
    fi
    have pandoc || packages="$packages pandoc"
    have fc-match || packages="$packages fontconfig"
    have pdftotext || packages="$packages poppler-utils"
    if [ $sandbox = yes ] || [ -n "$packages" ]; then  # the paper can do without a sandbox for LaTeX
        have bwrap || packages="$packages bubblewrap"
    fi
    if [ -n "$packages" ]; then  # and without pictures in SVG
        have rsvg-convert || packages="$packages librsvg2-bin"
    fi
fi
if [ -n "$packages" ]; then
    root=
    [ "$(id -u)" = 0 ] || root="sudo -n"
    if ! { have apt-get && $root true 2>/dev/null; }; then
        set -- "Some programs are missing. On Debian or Ubuntu run this line, then try again:" \
            "sudo apt-get update && sudo apt-get install --no-install-recommends$packages" "$@"
        [ $sandbox = yes ] || stop "$1" "$2"
        printf '%s\n' "$1" "$2" >&2
        shift 2
        packages=
    fi
fi
if [ -n "$packages" ]; then
    echo "Installing with apt, which takes a few minutes:$packages"
    mkdir -p build
    apt() {
        $root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" </dev/null >build/apt.log 2>&1
    }
    apt update || :  # a source that cannot be reached need not matter
    apt install -y --no-install-recommends $packages ||
        { tail -n 5 build/apt.log >&2; stop "apt could not install$packages (the whole log is build/apt.log)."; }
fi

# What comes from pip
if [ $ready = no ]; then
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    if [ $own = yes ]; then
        echo "Installing requirements.txt into .venv (5 GB on disk, most of it torch; a few minutes)."
        .venv/bin/python -c 'import pip' 2>/dev/null || python3 -m venv --clear .venv
        .venv/bin/python -m pip install -r requirements.txt || stop "pip could not install requirements.txt."
        python=.venv/bin/python
    else
        echo "Completing $environment with requirements.txt."
        # Only what is missing, and never another torch than the one that is there.
        "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null
        keep=$(mktemp)
        "$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
            >"$keep" 2>/dev/null || :
        "$python" -m pip install -q -c "$keep" -r requirements.txt ||
            { rm -f "$keep"; stop "pip could not complete $environment with requirements.txt."; }
        rm -f "$keep"
    fi
    "$python" -c 'import torch, torchvision' 2>/dev/null ||
        stop "torch and torchvision in $environment do not fit each other: install both anew, from the same source."
    cp requirements.txt "$installed" 2>/dev/null || :  # a read-only environment is checked every time
fi

if [ $own = yes ]; then export VIRTUAL_ENV="$environment"; fi
if [ -d "$environment/bin" ]; then PATH=$environment/bin:$PATH; fi
export PATH
exec "$@"
