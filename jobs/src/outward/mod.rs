//! The one HTTP client for calls to the outside.
