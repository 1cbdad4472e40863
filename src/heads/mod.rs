//! Heads over a text: a page for every attention head, as features have one. What it looks at is counted on every token of
//! the user's own text; its strongest examples are kept; what feeds it is averaged over a sample of the rows.

mod feeds;
pub mod index;
pub mod index_file;
pub mod question;
pub mod scan;
mod words;
