//! Integration tests: tidy, and promises proven over real processes.

mod tidy;
