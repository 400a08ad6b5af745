# SPDX-License-Identifier: MIT
# The front door; meson and ninja do the work. `make help` lists what there is.

BUILD ?= build
PREFIX ?= /usr/local
DESTDIR ?=
# Machines with few cores are shared with the tests' virtual machines.
JOBS ?= $(shell nproc)
# Guest kernel and initramfs, fetched and made by `make run`.
GUEST ?= $(BUILD)/guest
# More options for `make run`, as in: make run ARGS='-m 1G -c 2 --exit-stats'
ARGS ?=
CMDLINE ?= console=ttyS0 panic=-1
# Options for `make bench`, as in: make bench BENCH='--quick --group system'
BENCH ?=
# Seconds for each fuzz target.
FUZZ_SECONDS ?= 5

NINJA = ninja -j$(JOBS)
RINGER = $(BUILD)/ringer

.PHONY: all configure run guest test bench lint format install uninstall clean fuzz asan tsan \
	conformance help

all: configure
	@$(NINJA) -C $(BUILD)

configure: $(BUILD)/build.ninja

$(BUILD)/build.ninja:
	@command -v meson >/dev/null && command -v ninja >/dev/null || { \
		echo 'ringer: meson or ninja is missing; try: tools/setup-packages build' >&2; exit 1; }
	meson setup $(BUILD)

# The kernel is Debian's, unmodified; the initramfs is busybox. The modules: a panic and
# the power button become visible.
GUEST_MODULES = pvpanic-mmio,button,evdev
guest:
	@tools/setup-packages build run
	@mkdir -p $(GUEST)
	@tools/get-kernel $(GUEST)
	@tools/mkinitramfs --modules $(GUEST_MODULES) --tree $(GUEST)/tree $(GUEST)/initramfs.cpio

# Without the tests' programs, which take longer to build than ringer.
run: guest configure
	@$(NINJA) -C $(BUILD) ringer
	$(RINGER) run --kernel $(GUEST)/vmlinuz --initrd $(GUEST)/initramfs.cpio \
		--cmdline '$(CMDLINE)' $(ARGS)

test:
	@tools/setup-packages build run test
	@$(MAKE) --no-print-directory all
	@tools/run-tests --build $(BUILD) --fuzz-seconds $(FUZZ_SECONDS)

fuzz:
	@tools/setup-packages build test
	@tools/run-fuzz $(FUZZ_SECONDS)

# The same tests under the sanitizers, in their own build folders.
asan tsan:
	@tools/setup-packages build test
	@tools/run-sanitized $@

bench:
	@tools/setup-packages build run bench
	@$(MAKE) --no-print-directory all guest
	@RINGER_GUEST='$(GUEST)' bench/run $(BENCH) '$(BUILD)'

conformance: all
	@test -n '$(SUITE)' || { \
		echo "usage: make conformance SUITE=DIR  (DIR: kvm-unit-tests' built x86/*.flat files)" >&2; \
		exit 2; }
	@tools/conformance --build $(BUILD) '$(SUITE)'

lint:
	@tools/setup-packages build lint
	@$(MAKE) --no-print-directory configure
	@tools/lint $(BUILD)

format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

install: all
	install -D -m 755 $(RINGER) '$(DESTDIR)$(PREFIX)/bin/ringer'
	install -D -m 644 doc/ringer.1 '$(DESTDIR)$(PREFIX)/share/man/man1/ringer.1'

uninstall:
	rm -f '$(DESTDIR)$(PREFIX)/bin/ringer' '$(DESTDIR)$(PREFIX)/share/man/man1/ringer.1'

# The guest that `make run` downloaded lies in $(BUILD) too.
clean:
	rm -rf $(BUILD) build-asan build-tsan build-fuzz

help:
	@echo 'make                 build into $(BUILD)/'
	@echo 'make run             boot a Debian kernel to a shell (installs what is missing)'
	@echo 'make test            run all tests (installs what is missing)'
	@echo 'make bench           speed beside QEMU TCG and native, into bench/RESULTS.md; BENCH=options'
	@echo 'make lint            formatting, static analysis, man page'
	@echo 'make format          reformat the sources'
	@echo 'make asan, make tsan unit tests under AddressSanitizer+UBSan, ThreadSanitizer'
	@echo 'make fuzz            run every fuzz target; FUZZ_SECONDS=N each'
	@echo 'make conformance SUITE=DIR   kvm-unit-tests beside QEMU TCG, into doc/conformance.md'
	@echo 'make install         PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'make clean           remove the build folders'
	@echo
	@echo "make run ARGS='-m 1G -c 2' CMDLINE='console=ttyS0 quiet' gives ringer more options."
