# Runs bisenet_ros without a ROS distribution: ROS 2 comes as wheels into .venv.
# On a robot, which has a distribution, use colcon instead (README.md).
$(if $(word 2,$(CURDIR)),$(error make does not work in a folder whose path has a space, as here: $(CURDIR). \
  Move the checkout to another))
PYTHON ?= python3
VENV := $(CURDIR)/.venv
SHELL := /bin/bash

# A ROS distribution sourced in this shell must not mix with the one in .venv.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH
unexport ROS_DISTRO RMW_IMPLEMENTATION VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help
help:
	@echo 'make demo    segment a rendered street through real ROS 2 topics; pictures go to demo_output/'
	@echo '             SOURCE=<image folder | video | camera index | bag> plays your own images,'
	@echo '             ARGS="..." passes on further arguments (ARGS=--help lists them)'
	@echo 'make test    run the tests; ARGS="..." goes to pytest'
	@echo 'make lint    check the style'
	@echo 'make setup   only set up .venv, which demo and test do by themselves'
	@echo 'make clean   remove .venv, build and demo_output'
	@echo 'PYTHON=python3.12 picks the interpreter .venv is made with (3.10 to 3.13)'

.PHONY: demo
demo: setup
	@$(VENV)/bin/python -m bisenet_ros demo $(if $(SOURCE),'$(subst ','\'',$(SOURCE))') $(ARGS)

test_interfaces := $(CURDIR)/build/test_interfaces
# Elsewhere, tests skip themselves without these.
needed_by_tests := ament_index_python bisenet_ros.msg cyclonedds geometry_msgs.msg onnx onnxruntime rclpy rosbags \
  sensor_msgs tf2_msgs.msg torchmetrics vision_msgs.msg
.PHONY: test
test: setup build/test_interfaces.stamp
	@export LD_LIBRARY_PATH=$(test_interfaces)/lib PYTHONPATH=$$(echo $(test_interfaces)/lib/python*/site-packages); \
	  BISENET_ROS_REQUIRED_MODULES='$(needed_by_tests)' $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: lint
lint: $(VENV)/requirements.stamp
	@$(VENV)/bin/ruff check

.PHONY: clean
clean:
	rm -rf .venv build demo_output

.PHONY: setup
setup: build/venv.stamp

# $(call require,command,sentence): stops with the sentence where the command fails.
require = @$(1) >/dev/null 2>&1 || { echo 'bisenet_ros: $(2)' >&2; exit 1; }
python_is_supported := import sys; assert (3, 10) <= sys.version_info[:2] <= (3, 13)
platform_is_supported := import platform as p; libc, version = p.libc_ver(); \
  assert p.machine() == "x86_64" and libc == "glibc" and [*map(int, version.split("."))] >= [2, 28]
headers_are_there := import pathlib, sysconfig; \
  assert pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file()
on_debian := on Debian and Ubuntu: apt install g++ python3-dev python3-venv

# The wheels; a line that tells every Python of .venv where ROS packages are; and the messages' cmake files, which name
# the Python they were built with, turned to this one.
$(VENV)/requirements.stamp: requirements.txt requirements-ros.txt
	$(call require,$(PYTHON) -c '$(python_is_supported)',$(PYTHON) is not Python 3.10 to 3.13; \
	  name one that is: make PYTHON=python3.12 ...)
	$(call require,$(PYTHON) -c '$(platform_is_supported)',PyPI has ROS 2 only for Linux on x86_64 with glibc 2.28 \
	  or newer; elsewhere use a ROS 2 distribution and colcon)
	$(call require,$(PYTHON) -c 'import ensurepip',$(PYTHON) has no venv module; $(on_debian))
	$(call require,$(PYTHON) -c '$(headers_are_there)',$(PYTHON) has no C headers; $(on_debian))
	$(call require,c++ --version,there is no C++ compiler; $(on_debian))
	@echo 'Setting up .venv: several minutes the first time, a large download'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet -r requirements.txt -r requirements-ros.txt
	@site=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  include=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))') && \
	  echo 'import os, sys; os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)' > $$site/ament_prefix_path.pth && \
	  sed -i -E "s#/opt/python/[^;\"]*/numpy/#$$site/numpy/#; s#/opt/python/[^;\"]*/include/python[0-9.]+#$$include#" \
	    $(VENV)/share/*/cmake/*__rosidl_generator_pyExport.cmake
	@touch $@

# $(call build_package,source,build,install): what colcon does with one package, with --symlink-install.
define build_package
@mkdir -p $(2)
@export PATH="$(VENV)/bin:$$PATH" LD_LIBRARY_PATH=$(VENV)/lib AMENT_PREFIX_PATH=$(VENV); \
  { cmake -S $(1) -B $(2) -DCMAKE_INSTALL_PREFIX=$(3) -DPython3_EXECUTABLE=$(VENV)/bin/python \
      -DBUILD_TESTING=OFF -DAMENT_CMAKE_SYMLINK_INSTALL=ON && \
    cmake --build $(2) --parallel $$(nproc) --target install; } > $(2)/log.txt 2>&1 || \
  { tail -n 30 $(2)/log.txt; echo 'bisenet_ros: building $(1) failed; see $(2)/log.txt' >&2; exit 1; }
endef

# Links to the Python files are installed, so that an edited source is what runs; a new file needs a new link.
build/venv.stamp: $(VENV)/requirements.stamp CMakeLists.txt package.xml $(wildcard msg/*) build/files.txt
	@echo 'Building the messages and installing the package into .venv'
	$(call build_package,.,build/bisenet_ros,$(VENV))
	@touch $@

.PHONY: always
build/files.txt: always
	@mkdir -p build
	@find bisenet_ros config launch -type f -not -name '*.pyc' | sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

build/test_interfaces.stamp: $(VENV)/requirements.stamp $(wildcard test/interfaces/*/* test/interfaces/*/msg/*)
	@echo 'Building the message types that only a ROS distribution has, for the tests'
	$(call build_package,test/interfaces/vision_msgs,build/vision_msgs,$(test_interfaces))
	$(call build_package,test/interfaces/tf2_msgs,build/tf2_msgs,$(test_interfaces))
	@touch $@
