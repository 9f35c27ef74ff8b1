//! The tests that run the real programs, against real servers and in QEMU: one module a subject.

mod backup_run;
mod cards;
mod config;
mod connection;
mod cut;
mod databases;
mod doctor;
mod flash;
mod gate;
mod hostile;
mod mirror;
mod night;
mod offsite;
mod reference;
mod report;
mod snapshots;
mod status;
mod support;
mod unreadable;
