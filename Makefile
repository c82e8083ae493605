# Runs bisenet_ros without a ROS distribution: ROS 2 comes as wheels into .venv.
# On a robot, which has a distribution, use colcon instead (README.md).
PYTHON ?= python3
VENV := $(CURDIR)/.venv
SHELL := /bin/bash

# A ROS distribution sourced in this shell must not mix with the one in .venv.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH
unexport RMW_IMPLEMENTATION VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help
help:
	@echo 'make demo    segment a rendered street through real ROS 2 topics; pictures go to demo_output/'
	@echo '             SOURCE=<image folder | video | camera index | bag> plays your own images,'
	@echo '             ARGS="..." passes on further arguments (ARGS=--help lists them)'
	@echo 'make test    run the tests; ARGS="..." goes to pytest'
	@echo 'make setup   only set up .venv, which demo and test do by themselves'
	@echo 'make clean   remove all that was made, .venv included'
	@echo 'PYTHON=python3.12 picks the interpreter .venv is made with (3.10 to 3.13)'

.PHONY: demo
demo: setup
	@$(VENV)/bin/python -m bisenet_ros.tools.demo $(if $(SOURCE),'$(SOURCE)') $(ARGS)

test_interfaces := $(CURDIR)/build/test_interfaces
.PHONY: test
test: setup build/test_interfaces.stamp
	@export LD_LIBRARY_PATH=$(test_interfaces)/lib PYTHONPATH=$$(echo $(test_interfaces)/lib/python*/site-packages); \
	  $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: clean
clean:
	rm -rf .venv build demo_output

.PHONY: setup
setup: build/venv.stamp

# $(call require,command,sentence): stops with the sentence where the command fails.
require = @$(1) >/dev/null 2>&1 || { echo 'bisenet_ros: $(2)' >&2; exit 1; }
check_python := import sys; assert (3, 10) <= sys.version_info[:2] <= (3, 13)
check_platform := import platform as p; libc = p.libc_ver(); \
  assert p.machine() == "x86_64" and libc[0] == "glibc" and float(libc[1]) >= 2.28
check_headers := import os, sysconfig; \
  assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))

.PHONY: check_machine
check_machine:
	$(call require,$(PYTHON) -c '$(check_python)',"$(PYTHON)" is not Python 3.10 to 3.13; \
	  name one that is: make PYTHON=python3.12)
	$(call require,$(PYTHON) -c '$(check_platform)',PyPI has ROS 2 for Linux on x86_64 with glibc 2.28 \
	  or newer only; elsewhere install a ROS 2 distribution and use colcon)
	$(call require,$(PYTHON) -c 'import ensurepip',$(PYTHON) cannot make virtual environments; \
	  install its venv module (Debian: apt install python3-venv))
	$(call require,$(PYTHON) -c '$(check_headers)',$(PYTHON) has no C headers; \
	  install them (Debian: apt install python3-dev))
	$(call require,c++ --version,there is no C++ compiler; install one (Debian: apt install g++))

# The wheels, and one line that tells every program run in .venv that it is the place of ROS packages. The
# messages' cmake files name the Python of the machine they were built on instead of this one.
$(VENV)/requirements.stamp: requirements.txt requirements-ros.txt
	@$(MAKE) --no-print-directory check_machine
	@echo "Setting up .venv: several minutes the first time, a large download"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet -r requirements.txt -r requirements-ros.txt
	@site=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  include=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))') && \
	  echo 'import os, sys; os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)' \
	    > $$site/ament_prefix_path.pth && \
	  sed -i -E "s#/opt/python/[^;\"]*/numpy/#$$site/numpy/#; s#/opt/python/[^;\"]*/include/python[0-9.]+#$$include#" \
	    $(VENV)/share/*/cmake/*__rosidl_generator_pyExport.cmake
	@touch $@

# $(call build_package,source,build,install): what colcon does with one package, with --symlink-install.
define build_package
@mkdir -p $(2)
@export PATH="$(VENV)/bin:$$PATH" LD_LIBRARY_PATH=$(VENV)/lib AMENT_PREFIX_PATH=$(VENV); \
  { cmake -S $(1) -B $(2) -DCMAKE_INSTALL_PREFIX=$(3) -DPython3_EXECUTABLE=$(VENV)/bin/python \
      -DBUILD_TESTING=OFF -DAMENT_CMAKE_SYMLINK_INSTALL=ON && \
    cmake --build $(2) --parallel --target install; } > $(2)/log.txt 2>&1 || \
  { tail -n 30 $(2)/log.txt; echo 'bisenet_ros: building $(1) failed; see $(2)/log.txt' >&2; exit 1; }
endef

# An edited source is what runs, through links; a folder is newer than the stamp when a file was added to it.
sources := CMakeLists.txt package.xml $(wildcard msg/*) \
  $(shell find bisenet_ros config launch -type d -not -name __pycache__)
build/venv.stamp: $(VENV)/requirements.stamp $(sources)
	@echo 'Building the messages and installing the package into .venv'
	$(call build_package,.,build/bisenet_ros,$(VENV))
	@touch $@

build/test_interfaces.stamp: $(VENV)/requirements.stamp $(wildcard test/interfaces/*/* test/interfaces/*/msg/*)
	@echo 'Building the message types that only a ROS distribution has, for the tests'
	$(call build_package,test/interfaces/vision_msgs,build/vision_msgs,$(test_interfaces))
	$(call build_package,test/interfaces/tf2_msgs,build/tf2_msgs,$(test_interfaces))
	@touch $@
