//! What the tests of all families share.
