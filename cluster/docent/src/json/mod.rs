//! JSON of the interface's messages: one form for `--output json`, exported lines and imported lines.
//!
//! | module | owns |
//! |---|---|
//! | [`read`] | a JSON object to an event, item or profile, every complaint by field |
//! | [`write`] | events, items, profiles and answers to JSON |

pub mod read;
pub mod write;
