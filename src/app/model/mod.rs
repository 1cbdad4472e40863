//! The workspace that looks into a transformer and a prompt.
//!
//! | file | idea |
//! | --- | --- |
//! | [`actions`] | what views ask for, and how the document changes by it |
//! | [`runs`] | which runs there are, and which of them the views show |
//! | [`ask`] | what is wanted now: derived from the document, the selection and what can be seen |
//! | [`results`] | the answers |
//! | [`talk`] | the conversation in the prompt's place |
//! | [`trust`] | what was checked of the model and the dictionary |
//! | [`circuits`] | circuits and graphs: what is asked, what is saved |

pub mod actions;
pub mod ask;
pub mod circuits;
pub mod results;
pub mod runs;
pub mod talk;
pub mod trust;
pub mod views;

pub use actions::ModelAction;
