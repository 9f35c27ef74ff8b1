//! The tests that run the real programs, against real servers and in QEMU: one module a subject.

mod backup_run;
mod boot;
mod building;
mod config;
mod connection;
mod cut;
mod databases;
mod disks;
mod doctor;
mod hostile;
mod kernels;
mod keys;
mod mirror;
mod night;
mod offsite;
mod reference;
mod report;
mod snapshots;
mod status;
mod support;
mod unlock;
mod unlock_speed;
mod unreadable;
