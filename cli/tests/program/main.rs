//! The program as people and scripts use it: started as a process, against a real Redis and a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod manage;
mod operate;
mod refuse;
mod role;
mod support;
