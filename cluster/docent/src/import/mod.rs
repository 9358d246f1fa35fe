//! Data in: readers of every source format and the pipeline that feeds them to the cluster.
//!
//! Memory is bounded whatever the size of a source: readers hold one record, the pipeline a few batches. Every event gets an id made
//! of its source's digest and its place in it, so that importing a source again adds nothing.
//!
//! | module | owns |
//! |---|---|
//! | [`row`] | a record with its line, or the reason why there is none; the checks that the cluster would make too |
//! | [`file`] | opening a source: digest, size, formats that are refused by name |
//! | [`lines`] | bounded lines, BOM, CRLF, UTF-8 |
//! | [`records`] | delimited records with quotes |
//! | [`columns`] | which column means what |
//! | [`time`] | timestamps |
//! | [`events`] | events of CSV, JSONL and adjacency lists |
//! | [`things`] | items and users of CSV and JSONL, MovieLens's movies |
//! | [`generated`] | the generator as a source |
//! | [`pipeline`] | batches in flight, retries, progress |
//! | [`deliver`] | one batch over the wire, and what became of each record |
//! | [`report`] | rejected lines and the summary |

pub mod columns;
pub mod deliver;
pub mod events;
pub mod file;
pub mod generated;
pub mod lines;
pub mod pipeline;
pub mod records;
pub mod report;
pub mod row;
pub mod things;
pub mod time;
