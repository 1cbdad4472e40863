//! Probes: can a property of a text be read off what a model holds, and does the model use what is read?
//!
//! A probe alone says little: with enough coordinates anything can be read off anything. So every probe stands beside three
//! controls: the same probe on shuffled labels, on as many coordinates drawn at random, and on a model of the same shape with
//! random weights. And [`interchange`] asks what a probe cannot say: put one text's value of the property into another
//! text's run, does the model then answer as for the first?

mod controls;
pub mod fit;
pub mod interchange;
pub mod question;
pub mod set;
