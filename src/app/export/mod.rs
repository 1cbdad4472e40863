//! What leaves the window: pictures and numbers of views, each with what it is of.
//!
//! | file | idea |
//! | --- | --- |
//! | [`table`] | the numbers of a view, as CSV, JSON and NumPy arrays |
//! | [`provenance`] | what numbers and pictures are of |
//! | [`commands`] | the command lines that compute a view's numbers again |
//! | [`plate`] | a view drawn by itself, with title and legend and without controls, as SVG |
//! | [`print`] | SVG as PNG and PDF |
//! | [`dialog`] | the dialog with its preview |
//! | [`report`] | views of a session as one HTML file |

pub mod commands;
pub mod dialog;
pub mod plate;
pub mod print;
pub mod provenance;
pub mod report;
pub mod table;
