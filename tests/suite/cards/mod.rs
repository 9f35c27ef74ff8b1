//! Cards: images that are built, looked at, and booted in QEMU. They take most of the time of all tests, so `tools/tests` runs
//! them beside the others.

mod boards;
mod boot;
mod boot_loader;
mod building;
mod disks;
mod failing;
mod harden;
mod kernels;
mod keys;
mod region;
mod reproducible;
mod shortage;
mod unlock;
mod unlock_speed;
mod updates;
mod volumes;
