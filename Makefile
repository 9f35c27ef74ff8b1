# vaultberry: `make image` builds the flashable image, `make test` runs every test. Both set up what they need first.

CONFIG ?=
FLAGS ?=
TARGET := target/aarch64-unknown-linux-gnu/release
BUILDER := target/release/vaultberry

.PHONY: help setup image reproducible test test-garage test-guests check bench bench-image bench-backup bench-offsite bench-unlock lint cross host clean

help:
	@echo 'make image            build out/*.img from image/appliance.toml (CONFIG=FILE: from another)'
	@echo '                      (FLAGS=--refresh: with new packages)'
	@echo 'make reproducible     build the image twice and compare all of it'
	@echo 'make setup            install what building and testing need'
	@echo 'make test             run every test, those in QEMU too'
	@echo 'make test-garage      run the tests against a real Garage, which it builds first'
	@echo 'make test-guests      run what `make test` leaves out in QEMU: new keys on a running appliance, failing services, an image for a Pi 5'
	@echo 'make check            run the fast tests only'
	@echo 'make bench            measure a night beside the shell pipeline that it replaces'
	@echo 'make bench-image      measure building and flashing beside mke2fs, zstd and openssl'
	@echo 'make bench-backup     measure pull and snapshot beside tar, pigz, restic, borg and duplicity'
	@echo 'make bench-offsite    measure sealing and pushing beside gpg, s3cmd, restic and duplicity'
	@echo 'make bench-unlock     measure opening root beside cryptsetup-initramfs and passdev'
	@echo 'make lint             rustfmt, clippy, cargo-deny'
	@echo 'make cross            build the programs for the appliance'
	@echo 'make host             build the builder'
	@echo 'make clean            remove what was built; the keys in secrets/ stay'

setup:
	tools/setup test

image:
	$(if $(CONFIG),@test -r "$(CONFIG)" || { echo "error: there is no file $(CONFIG) to read" >&2; exit 1; })
	tools/setup image
	$(MAKE) --no-print-directory host cross
	$(BUILDER) -v image --binaries $(TARGET) $(FLAGS) $(if $(CONFIG),"$(CONFIG)")

reproducible:
	tools/setup image
	$(MAKE) --no-print-directory host cross
	tools/reproducible $(BUILDER) $(TARGET) $(if $(CONFIG),"$(CONFIG)")

host:
	tools/toolchain host sh -c '$$CARGO build --release --locked'

cross:
	tools/toolchain target sh -c '$$CARGO build --release --locked --target aarch64-unknown-linux-gnu'

check:
	tools/setup check
	tools/toolchain host sh -c '$$CARGO test --locked --lib && $$CARGO test --locked --test suite -- config:: reference::'

test:
	tools/setup test
	tools/toolchain host tools/tests

test-garage:
	tools/setup garage
	tools/toolchain host sh -c '$$CARGO test --locked --test suite -- --ignored garage::'

test-guests:
	tools/setup test
	$(MAKE) --no-print-directory cross
	tools/toolchain host sh -c '$$CARGO test --locked --test suite -- --ignored keys_change no_service_that_fails pi_5_boots'

bench:
	tools/setup test
	$(MAKE) --no-print-directory host
	tools/toolchain host benches/night.py

bench-image:
	tools/setup test
	$(MAKE) --no-print-directory host cross
	tools/toolchain host benches/image.py $(FLAGS)

bench-backup:
	tools/setup bench
	$(MAKE) --no-print-directory host
	tools/toolchain host benches/backup.py

bench-offsite:
	tools/setup bench
	$(MAKE) --no-print-directory host
	tools/toolchain host benches/offsite.py

bench-unlock:
	tools/setup test
	$(MAKE) --no-print-directory cross
	tools/toolchain host sh -c '$$CARGO test --locked --test suite -- --ignored --nocapture --test-threads 1 unlock_speed::'

lint:
	tools/setup lint
	tools/toolchain host sh -c '$$CARGO fmt --all --check'
	tools/toolchain host sh -c '$$CARGO clippy --locked --all-targets -- -D warnings'
	tools/toolchain host sh -c '$$CARGO deny --locked check licenses bans sources'

clean:
	rm -rf target out
