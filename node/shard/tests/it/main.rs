//! The state machines against naive models, under random commands.

mod items;
mod support;
mod users;
