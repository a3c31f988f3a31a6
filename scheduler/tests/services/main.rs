//! The services against real servers: every fire once, every journaled job into Redis once, whoever races or dies.
#![allow(clippy::unwrap_used, reason = "tests")]

mod admin;
mod config;
mod firing;
mod healing;
mod lost;
mod parking;
mod relaying;
mod running;
mod support;
mod tidying;
mod watching;
