//! Integration tests: the walls of the house, and promises proven over real processes.

mod answers;
mod durability;
mod immediate;
mod input;
mod readme;
mod tidy;
