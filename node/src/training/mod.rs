//! Training on this node: input pinned at the cut, a worker for its share, a driver where the coordinator says so.
//!
//! | module | owns |
//! |---|---|
//! | [`cut`] | pinned views of this node's replicas at a job's cut |
//! | `ask` | a driver's questions about the cut, and who computes what |
//! | [`input`] | those views as the trainer's input; finished parts to disk |
//! | [`checkpoints`] | what a job has done so far, on disk while the process lives |
//! | [`exchange`] | the trainer's messages over the members' calls |
//! | [`drive`] | runs the jobs that the catalog gives to this node |

mod ask;
pub mod checkpoints;
pub mod cut;
pub mod drive;
pub mod exchange;
pub mod input;
