//! A local cluster of separate processes: what `docent up` and `docent demo` run.
//!
//! | module | owns |
//! |---|---|
//! | [`layout`] | the directory: which are ours, ports, settings files, secret, tokens |
//! | [`children`] | the processes: start, death, stop |
//! | [`ready`] | waiting until the cluster answers |

pub mod children;
pub mod layout;
pub mod ready;
