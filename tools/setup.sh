#!/bin/sh
# sh tools/setup.sh [--no-tex | --no-pip | --sandbox] COMMAND...
#
# Run COMMAND in the project's environment. Call this in the repository's root. Whatever is missing
# is installed first, packages by uv where it is there; if that is not allowed, the command to run
# is printed. If nothing is missing, this prints nothing and takes no time.
#
# --no-tex    COMMAND needs no program of the system: check Python packages only
# --no-pip    check programs of the system only
# --sandbox   COMMAND judges submissions: it wants TeX and bubblewrap, and also runs without them
set -eu

stop() {
    printf '%s\n' "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

on_macos() {
    [ "$(uname -s 2>/dev/null)" = Darwin ]
}

# An active environment is used as it is, and so is Colab's Python. Otherwise the project has its
# own one, .venv. Sets: environment (its folder), python, own (whether it is .venv).
find_environment() {
    own=no
    if [ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]; then
        environment=${VIRTUAL_ENV:-$CONDA_PREFIX}
        python=$environment/bin/python
        have "$python" ||
            stop "The active environment $environment has no Python. Run deactivate (conda:" \
                "conda deactivate), then try again."
    else
        python=python3
        have python3 ||
            stop "Python 3.11 or later is needed, but there is no python3. Install it (Debian or" \
                "Ubuntu: sudo apt-get install python3; macOS: brew install python), then try again."
        if [ -n "${COLAB_RELEASE_TAG:-}" ]; then
            environment=$(python3 -c 'import sys; print(sys.prefix)')
        else
            own=yes
            environment=$PWD/.venv
            [ ! -d .venv/Scripts ] ||
                stop "The folder .venv is an environment of Windows, and WSL needs this name for" \
                    "its own. Remove .venv, then make the one of Windows again, as .venv-windows."
        fi
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "Python 3.11 or later is needed; $python is $("$python" -V 2>&1)." \
            "Activate an environment with a newer Python (macOS: brew install python), then try" \
            "again."
}

# Sets ready: whether everything in requirements.txt is installed. The environment holds a copy of
# the requirements.txt that was installed there.
check_requirements() {
    installed=$environment/requirements-installed.txt
    ready=no
    if [ $pip = no ]; then
        ready=yes
    elif cmp -s requirements.txt "$installed"; then
        if [ $own = no ] || have .venv/bin/python; then
            ready=yes
        fi
    fi
}

# Sets what the system's package manager has to install, "" if nothing: packages, as Debian names
# them, and formulas, as Homebrew does.
list_packages() {
    packages=
    formulas=
    # Debian's python3 has no venv without this package; uv needs none
    if [ $own = yes ] && [ $ready = no ] && ! have uv &&
        ! python3 -c 'import ensurepip' 2>/dev/null; then
        packages=" python3-venv"
    fi
    [ $tex = yes ] || return 0
    if ! have_tex; then
        packages="$packages texlive-xetex texlive-latex-recommended texlive-fonts-recommended"
        packages="$packages texlive-plain-generic lmodern latexmk"
        formulas="$formulas mactex-no-gui"
    fi
    have pandoc || lack pandoc pandoc
    have fc-match || lack fontconfig fontconfig
    have pdftotext || lack poppler-utils poppler
    # A paper can be built without these two, so they alone are no reason to call apt: bubblewrap
    # (a sandbox for LaTeX and for students' code, on Linux) and librsvg (pictures in SVG).
    if [ $sandbox = yes ] || [ -n "$packages" ]; then
        have bwrap || on_macos || lack bubblewrap
    fi
    if [ -n "$packages" ]; then
        have rsvg-convert || lack librsvg2-bin librsvg
    fi
}

# Add a program to those that are missing: Debian's package, Homebrew's formula.
lack() {
    packages="$packages $1"
    formulas="$formulas${2:+ $2}"
}

# Whether TeX is complete: one file stands for each package. cleveref is one of texlive-latex-extra,
# which comes with texlive-xetex.
have_tex() {
    have xelatex && have latexmk &&
        kpsewhich fontspec.sty cleveref.sty ulem.sty rsfs10.tfm lmroman10-regular.otf >/dev/null
}

# Install packages by apt. If that is not allowed here, print the command: judging goes on without,
# everything else ends.
install_packages() {
    [ -n "$packages" ] || return 0
    root=
    [ "$(id -u)" = 0 ] || root="sudo -n"
    if ! { have apt-get && $root true 2>/dev/null; }; then
        print_command >&2
        [ $sandbox = yes ] || exit 1
        return 0
    fi
    echo "Installing with apt, which takes a few minutes:$packages"
    mkdir -p build
    apt_get update || : # a package source that cannot be reached may not matter
    if ! apt_get install -y --no-install-recommends $packages; then
        tail -n 5 build/apt.log >&2
        stop "apt could not install$packages. The whole log is build/apt.log."
    fi
}

print_command() {
    if on_macos; then
        echo "Some programs are missing. With Homebrew (https://brew.sh) run this command, open a new" \
            "terminal, then try again:"
        echo "brew install$formulas"
    else
        echo "Some programs are missing. On Debian or Ubuntu run this command, then try again:"
        echo "sudo apt-get update && sudo apt-get install --no-install-recommends$packages"
    fi
}

# Call apt-get as root; what it prints goes to build/apt.log.
apt_get() {
    $root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=300 "$@" </dev/null >build/apt.log 2>&1
}

# Install requirements.txt: into .venv, made first, or into the active environment.
install_requirements() {
    [ $ready = no ] || return 0
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    if [ $own = yes ]; then
        echo "Installing requirements.txt into .venv: 6 GB, most of it torch; a few minutes."
        .venv/bin/python -c 'import pip' 2>/dev/null || make_environment
        python=.venv/bin/python
        install -r requirements.txt ||
            stop "$installer could not install requirements.txt. Its reason is above."
    else
        complete_environment
    fi
    "$python" -c 'import torch, torchvision' 2>/dev/null ||
        stop "torch and torchvision in $environment do not fit each other." \
            "Reinstall both from one source, with pip or with conda."
    # a read-only environment keeps no copy and is checked every time
    cp requirements.txt "$installed" 2>/dev/null || :
}

# Make .venv, with pip in it.
make_environment() {
    if have uv; then
        rm -rf .venv
        uv venv --quiet --seed --python python3 .venv
    else
        python3 -m venv --clear .venv
    fi
}

# Install packages; the arguments are those of pip install.
install() {
    if [ $installer = uv ]; then
        uv pip install --python "$python" "$@"
    else
        "$python" -m pip install "$@"
    fi
}

# Install into the active environment what is missing there; its torch stays as it is.
complete_environment() {
    echo "Installing what $environment lacks of requirements.txt."
    [ $installer = uv ] || "$python" -c 'import pip' 2>/dev/null ||
        "$python" -m ensurepip >/dev/null
    keep=$(mktemp)
    "$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
        >"$keep" 2>/dev/null || :
    if ! install -q -c "$keep" -r requirements.txt; then
        rm -f "$keep"
        stop "$installer could not install requirements.txt into $environment. Its reason is above."
    fi
    rm -f "$keep"
}

installer=pip
! have uv || installer=uv
tex=yes
pip=yes
sandbox=no
case $1 in
--no-tex) tex=no && shift ;;
--no-pip) pip=no && shift ;;
--sandbox) sandbox=yes && shift ;;
esac

find_environment
check_requirements
list_packages
install_packages
install_requirements

if [ $own = yes ]; then
    export VIRTUAL_ENV="$environment"
fi
if [ -d "$environment/bin" ]; then
    PATH=$environment/bin:$PATH
fi
export PATH
exec "$@"
