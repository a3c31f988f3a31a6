//! The sources that `windrow dev` brings along: a local web server with made-up vacancies, in all forms that are fetched.

mod document;
mod scorer;
mod server;
mod vacancy;

pub(super) use document::{board_mapping, flat_mapping};
pub(super) use server::SampleServer;
